"""What mkdocs.yml cannot express: pages from the repository's root, and links to files that are not part of the site."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site -> file in the root of the repository."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from the root."""
    for page, file in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Rewrite links that work in the repository so that they work on the site; a link to a file outside it becomes text."""
    here = PurePosixPath(page.file.src_uri)
    folder = PurePosixPath(".") if page.file.src_uri in FROM_ROOT else PurePosixPath("docs") / here.parent

    def on_site(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or (folder != PurePosixPath(".") and not target.startswith("../")):
            return match[0]
        file = _plain(folder / target)
        site_page = {file: page for page, file in FROM_ROOT.items()}.get(file, file.removeprefix("docs/"))
        if file != site_page and files.get_file_from_path(site_page) is not None:
            return f"[{text}]({'../' * (len(here.parts) - 1)}{site_page}{anchor})"
        return text

    return LINK.sub(on_site, markdown)


def _plain(path: PurePosixPath) -> str:
    """A path with its `..` resolved, without touching the disk."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
