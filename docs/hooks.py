"""What mkdocs can't say in mkdocs.yml: pages that lie in the repository's root, and links to files that the site lacks."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site -> file of the repository."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for page, file in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links of a page as they are in the repository, brought to the site; one to a file that isn't in it becomes text."""
    here = PurePosixPath(page.file.src_uri)
    folder = PurePosixPath(".") if page.file.src_uri in FROM_ROOT else PurePosixPath("docs") / here.parent

    def mended(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or (folder != PurePosixPath(".") and not target.startswith("../")):
            return match[0]
        place = _plain(folder / target)
        found = {file: page for page, file in FROM_ROOT.items()}.get(place, place.removeprefix("docs/"))
        if place != found and files.get_file_from_path(found) is not None:
            return f"[{text}]({'../' * (len(here.parts) - 1)}{found}{anchor})"
        return text

    return LINK.sub(mended, markdown)


def _plain(path: PurePosixPath) -> str:
    """A path without `..`."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
