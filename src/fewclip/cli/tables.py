"""Tables in a terminal."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any


def print_table(rows: Sequence[dict[str, Any]], *, left: Container[str], wrap: bool = False, title: str = "") -> None:
    """One line per row, one column per key. `left`: columns of words; the others are numbers, set flush right. In a narrow
    terminal, cells are cut; with `wrap` they continue on further lines, and those of the first column stay whole."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fewclip.errors import visible

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title or None, title_justify="left")
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=not wrap or number == 0)
    for row in rows:
        table.add_row(*(Text(visible(value)) for value in row.values()))
    Console().print(table)
