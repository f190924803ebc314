"""Markdown tables, for cards, reports and results."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], right: Container[int] = ()) -> str:
    """A table of cells that are Markdown already, without a final line end. `right`: columns set flush right."""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
