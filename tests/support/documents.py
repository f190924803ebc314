"""The fenced blocks of README.md and docs/, and which of them are marked as not run.

A block is exempt where the line before it says why: `<!-- not run: needs ImageNet -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
REASON = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
LANGUAGES = {"python": "python", "bash": "shell", "console": "shell"}
COMMAND = re.compile(r"^\$? *(fewclip|python3?|pip|make|curl|docker|from \w+ import|import \w+)\b", flags=re.MULTILINE)
"""How a line begins that a reader would copy and run."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, its language as written, its text, and why it is not run (None: it is)."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def kind(self) -> str | None:
        """python, shell, or None for what is not to be run."""
        return LANGUAGES.get(self.language)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README.md and every page of docs/, as paths below the root."""
    return ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = REASON.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[2], match[3], before[1] if before else None))
    return found
