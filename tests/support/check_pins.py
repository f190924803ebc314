"""Can constraints.txt be installed with every Python that pyproject.toml claims? Asks the package index; installs nothing.

    python tests/support/check_pins.py [--wheels] [VERSION ...]

pip resolves fewclip with all extras for each version's first patch release (3.11 is tried as 3.11.0). `--wheels` is
faster: it only looks for a wheel of each pin, and leaves the resolution to the environment that runs it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def claimed() -> list[str]:
    """The versions of pyproject.toml's classifiers, oldest first."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    return [match[1] for match in found if match]


def requirements() -> list[str]:
    """What fewclip needs with every extra; fewclip's own names of extras are left out."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return sorted({line for lines in lists for line in lines if not line.startswith("fewclip")})


def check(version: str, wheels: bool = False, constraints: Path = CONSTRAINTS) -> str:
    """What pip says against installing the pins with this Python; empty if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text("\n".join(requirements()))
        which = ["--no-deps", "-r", str(constraints)] if wheels else ["-c", str(constraints), "-r", str(wanted)]
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--retries=1"]
        command += [f"--target={folder}/none", f"--python-version={version}", "--only-binary=:all:", *which]
        done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    return "" if done.returncode == 0 else "\n".join(errors) or f"pip ended with status {done.returncode}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Can constraints.txt be installed with every Python that is claimed?")
    parser.add_argument("versions", nargs="*", default=claimed(), help="for example 3.11")
    parser.add_argument("--wheels", action="store_true", help="only look for a wheel of each pin")
    options = parser.parse_args(arguments)
    wrong = 0
    for version in options.versions:
        error = check(version, options.wheels)
        wrong += bool(error)
        print(f"Python {version}: {error or 'the pins can be installed'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
