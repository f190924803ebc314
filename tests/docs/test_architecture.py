"""The rooms in docs/architecture.md are the folders and files of the package, each where it is."""

from __future__ import annotations

import re

from documents import ROOT, blocks

LONGEST_LIST, LONGEST_PAGE = 80, 160
"""Lines: at most two screens of rooms, and about as much of ideas."""


def named() -> set[str]:
    """Paths below the package, as the list's indentation gives them."""
    text = next(block.text for block in blocks("docs/architecture.md") if block.text.startswith("src/fewclip/"))
    folders: list[tuple[int, str]] = []
    found = set()
    for line in text.splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        place = folders[-1][1] if folders else ""
        words = re.split(r" {3}|  +", line.strip(), maxsplit=1)[0].split()
        for word in words:
            assert re.fullmatch(r"\w+(\.py|/)", word), f"{word!r} in the line {line!r} is neither a file nor a folder"
            found.add(place + word)
            if word.endswith("/"):
                folders.append((indent, place + word))
    return found


def test_rooms_are_those_of_the_tree() -> None:
    package = ROOT / "src/fewclip"
    files = [path for path in package.rglob("*.py") if path.name != "__init__.py" or path.parent == package]
    tree = {path.relative_to(package).as_posix() for path in files}
    tree |= {
        f"{folder.relative_to(package).as_posix()}/"
        for path in files
        for folder in path.parents[:-1]
        if package in folder.parents
    }
    said = {name for name in named() if name.endswith(".py") or any(file.startswith(name) for file in tree)}
    assert said - tree == set(), "docs/architecture.md names what is not there"
    assert tree - said == set(), "docs/architecture.md does not name these: add them to their room"
    for name in named() - said:
        assert (package / name).is_dir(), name


def test_it_is_short() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = next(block.text for block in blocks("docs/architecture.md") if block.text.startswith("src/fewclip/"))
    assert len(rooms.splitlines()) <= LONGEST_LIST
    assert len(page.splitlines()) <= LONGEST_PAGE
