"""The house: which file imports which, read from the code. Arrows run one way, and no circle is left but one."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
STOREYS = (
    ("errors", "seeds", "version"),
    ("files", "workers"),
    ("clip",),
    ("data",),
    ("methods",),
    ("training",),
    ("adapters",),
    ("classifier",),
    ("bench", "serve", "bulk"),
    ("report",),
    ("cli",),
)
"""The rooms from the ground up. A file imports from its own room and from storeys below."""
LEFT = {"clip/load.py", "clip/model.py"}
"""The one circle: `CLIP.from_pretrained` imports the loader inside the function."""
LONGEST_FILE, LONGEST_CLASSIFIER = 400, 300
Graph = Mapping[str, set[str]]


def imports(source: Path) -> dict[str, set[str]]:
    """File -> files that it imports, wherever in it the import statement is; paths below the package."""
    package = source / "fewclip"
    files = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): str(
            path.relative_to(package)
        )
        for path in package.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        own = str(path.relative_to(package))
        names = _imported(ast.parse(path.read_text(encoding="utf-8")), files)
        graph[own] = {files[name] for name in names if name in files} - {own}
    return graph


def _imported(tree: ast.Module, modules: Container[str]) -> Iterator[str]:
    """Dotted names of the modules that are imported: of `from a import b` a.b if that is one, else a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute, so that a reader can search for them"
            for name in node.names:
                inside = f"{node.module}.{name.name}"
                yield inside if inside in modules else node.module


def circles(graph: Graph) -> list[set[str]]:
    """Sets of files that reach each other (strongly connected components of more than one file)."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for following in graph[waiting.pop()] - found:
                found.add(following)
                waiting.append(following)
        return found

    reach = {file: reached(file) for file in graph}
    found: list[set[str]] = []
    for file in graph:
        circle = {other for other in reach[file] if file in reach[other]} | {file}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def upward(graph: Graph) -> list[str]:
    """Imports of a room on the same storey or above, as "file -> file"."""
    storey = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}

    def room(file: str) -> str:
        return file.partition("/")[0].removesuffix(".py")

    return [
        f"{file} -> {other}"
        for file, others in sorted(graph.items())
        for other in sorted(others)
        if room(file) in storey and room(other) in storey and room(file) != room(other)
        if storey[room(other)] >= storey[room(file)]
    ]


GRAPH = imports(SOURCE)


def test_no_circle_but_one() -> None:
    assert [circle for circle in circles(GRAPH) if circle != LEFT] == []


def test_arrows_run_one_way() -> None:
    assert upward(GRAPH) == []


def test_every_room_has_its_storey() -> None:
    known = {room for rooms in STOREYS for room in rooms} | {"__init__", "__main__"}
    assert {path.stem for path in (SOURCE / "fewclip").iterdir() if path.name != "__pycache__"} - {"py"} <= known


def test_files_stay_readable() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (SOURCE / "fewclip").rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > LONGEST_FILE} == {}
    assert lines[SOURCE / "fewclip" / "classifier.py"] <= LONGEST_CLASSIFIER


@pytest.mark.parametrize(
    ("text", "circle", "arrow"),
    [
        ("from fewclip.clip import prompts\n", False, False),
        ("def late():\n    from fewclip.cli import main\n", False, True),
        ("import fewclip.methods.base\n", True, True),
    ],
)
def test_a_new_arrow_is_found(tmp_path: Path, text: str, circle: bool, arrow: bool) -> None:
    """The test itself, on a small house with one import more."""
    files = {
        "fewclip/__init__.py": "",
        "fewclip/cli/__init__.py": "def main(): ...\n",
        "fewclip/clip/__init__.py": "",
        "fewclip/clip/prompts.py": "",
        "fewclip/clip/model.py": text,
        "fewclip/methods/__init__.py": "",
        "fewclip/methods/base.py": "from fewclip.clip.model import CLIP\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    graph = imports(tmp_path)
    assert bool(circles(graph)) == circle
    found = upward(graph)
    assert bool(found) == arrow
    assert all(arrow.startswith("clip/model.py -> ") for arrow in found)
