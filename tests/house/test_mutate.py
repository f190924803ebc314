"""tests/mutate.py: deliberate mistakes are caught, and one that is not is reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "mutate.py"

MUTANTS = """
[[mutant]]
name = "a sum is a difference"
file = "src/small.py"
before = "a + b"
after = "a - b"
tests = ["tests/test_small.py::test_add"]
[[mutant]]
name = "nothing that a test sees"
file = "src/small.py"
before = "a + b"
after = "b + a"
tests = ["tests/test_small.py::test_add"]
[[mutant]]
name = "text that is not there"
file = "src/small.py"
before = "a * b"
after = "a - b"
tests = ["tests/test_small.py::test_add"]
[[mutant]]
name = "text that is there twice"
file = "src/small.py"
before = "return"
after = "return 1 +"
tests = ["tests/test_small.py::test_add"]
[[mutant]]
name = "a test that fails anyway"
file = "src/small.py"
before = "a + b"
after = "a - b"
tests = ["tests/test_small.py::test_always_fails"]
[[mutant]]
name = "a test that does not exist"
file = "src/small.py"
before = "a + b"
after = "a - b"
tests = ["tests/test_small.py::test_absent"]
[[mutant]]
name = "no valid Python"
file = "src/small.py"
before = "a + b"
after = "a +"
tests = ["tests/test_small.py::test_add"]
[[mutant]]
name = "seen by a child process"
file = "src/small.py"
before = "return 2"
after = "return 3"
tests = ["tests/test_small.py::test_in_a_child"]
"""
TESTS = """
import os, subprocess, sys
from pathlib import Path
import small
def test_add(): assert small.add(1, 2) == 3
def test_always_fails(): assert False
def test_in_a_child():
    source = str(Path(__file__).parents[1] / "src")
    command = [sys.executable, "-c", "import small; print(small.two())"]
    assert subprocess.check_output(command, env=os.environ | {"PYTHONPATH": source}) == b"2\\n"
"""


@pytest.mark.slow
def test_states(tmp_path: Path) -> None:
    repository = tmp_path / "small"
    for name, text in {
        "src/small.py": "def add(a, b):\n    return a + b\n\n\ndef two():\n    return 2\n",
        "tests/test_small.py": TESTS,
        "tests/mutants/small.toml": MUTANTS,
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["src"]\n',
    }.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    before = (repository / "src/small.py").read_bytes()
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import mutate; from pathlib import Path"
    command = f"{code}; sys.exit(mutate.main([], Path({str(repository)!r})))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if " s  small: " in line]
    assert {line.partition("small: ")[2]: line.split()[0] for line in lines} == {
        "a sum is a difference": "caught",
        "nothing that a test sees": "survived",
        "text that is not there": "broken",
        "text that is there twice": "broken",
        "a test that fails anyway": "broken",
        "a test that does not exist": "broken",
        "no valid Python": "broken",
        "seen by a child process": "caught",
    }, done.stdout + done.stderr
    assert "its text occurs 0 times in src/small.py" in done.stdout
    assert "its text occurs 2 times in src/small.py" in done.stdout
    assert "test_always_fails fails without the mistake" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 caught, 1 survived, 5 broken of 8")
    assert done.returncode == 1
    assert (repository / "src/small.py").read_bytes() == before, "the working tree is never changed"


@pytest.mark.slow
def test_every_mistake_is_caught() -> None:
    # Without the mistakes, the rest of this suite runs the same tests.
    command = [sys.executable, str(SCRIPT), "--trust-tests"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
