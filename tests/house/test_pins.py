"""What pyproject.toml and constraints.txt say of each other, of Python, and of what the code imports."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import check_pins
import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = ("ConnectionError", "NewConnectionError", "name resolution", "unreachable", "ProxyError", "timed out")
EXTRAS = check_pins.PROJECT["optional-dependencies"]


def normal(requirement: str) -> str:
    """The name of a requirement as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", requirement)[0]).lower()


PINS = {
    normal(line): line.partition("==")[2].strip()
    for line in check_pins.CONSTRAINTS.read_text().splitlines()
    if line and not line.startswith("#")
}


def test_one_oldest_python() -> None:
    versions = check_pins.claimed()
    assert versions == [f"3.{minor}" for minor in range(int(versions[0][2:]), int(versions[-1][2:]) + 1)]
    assert check_pins.PROJECT["requires-python"] == f">={versions[0]}"
    project = check_pins.tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["ruff"]["target-version"] == f"py{versions[0].replace('.', '')}"
    assert project["tool"]["mypy"]["python_version"] == versions[0]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r'python: \["(\S+)", "(\S+)"\]', workflow) == [(versions[0], versions[-1])]
    for page in ("README.md", "docs/quickstart.md", "docs/index.md"):
        assert set(re.findall(r"Python (3\.\d+) or newer", (ROOT / page).read_text())) <= {versions[0]}, page


def test_every_requirement_is_pinned() -> None:
    assert {normal(line) for line in check_pins.requirements()} <= set(PINS)
    assert all(PINS.values())


def test_all_is_every_extra() -> None:
    (everything,) = EXTRAS["all"]
    named = re.fullmatch(r"fewclip\[([\w,]+)\]", everything)
    assert named is not None
    assert sorted(named[1].split(",")) == sorted(EXTRAS.keys() - {"all", "dev", "docs"})
    assert "fewclip[all,docs]" in EXTRAS["dev"]


@pytest.mark.slow
@pytest.mark.parametrize("version", [check_pins.claimed()[0], check_pins.claimed()[-1]])
def test_there_is_a_wheel_of_each_pin(version: str) -> None:
    error = check_pins.check(version, wheels=True)
    if any(word in error for word in OFFLINE):
        pytest.skip("no package index can be reached")
    assert not error


@pytest.mark.slow
def test_a_pin_without_a_wheel_is_found(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\n")
    error = check_pins.check("3.10", wheels=True, constraints=tmp_path / "constraints.txt")
    if any(word in error for word in OFFLINE):
        pytest.skip("no package index can be reached")
    assert "numpy==2.4.6" in error


def imported_at_run_time(tree: ast.AST) -> set[str]:
    """First names of what is imported, but for the branches that only a type checker takes."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            found |= imported_at_run_time(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        else:
            found |= imported_at_run_time(node)
    return found


PACKAGES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "multipart": "python-multipart",
    "python_multipart": "python-multipart",
}
"""Names of imports that are not those of their packages."""
OF_OTHERS = {
    "starlette": "fastapi",
    "anyio": "fastapi",
    "packaging": "huggingface-hub",
    "pydantic": "fastapi",
    "markupsafe": "jinja2",
}
"""Packages that a dependency brings and that belong to its interface."""


def test_everything_imported_is_declared() -> None:
    """jaxtyping and other tools of developers are never imported at run time; nor is a package that is not asked for."""
    declared = {normal(line) for line in check_pins.PROJECT["dependencies"]}
    declared |= {normal(line) for extra, lines in EXTRAS.items() if extra not in ("dev", "docs") for line in lines}
    used: dict[str, str] = {}
    for path in sorted((ROOT / "src" / "fewclip").rglob("*.py")):
        for name in imported_at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
            if name not in sys.stdlib_module_names and name != "fewclip":
                used[OF_OTHERS.get(name, PACKAGES.get(name, normal(name)))] = str(path.relative_to(ROOT))
    assert {package: path for package, path in used.items() if package not in declared} == {}
    assert "jaxtyping" not in declared


def test_imports_for_the_type_checker_are_told_apart() -> None:
    code = (
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    from c.d import e\nif x:\n    import g.h\n"
    )
    assert imported_at_run_time(ast.parse(code)) == {"b", "c", "g"}
