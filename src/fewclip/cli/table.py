"""Tables in the terminal: one look for all commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewclip.errors import visible


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None, wrap: bool = False) -> None:
    """Rows with the same keys, which are the column headings. Whole numbers get thousands separators and are right-aligned, as
    do texts that begin with a digit; with `wrap` long texts take several lines."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown = [{key: _text(value) for key, value in row.items()} for row in rows]
    for name in shown[0]:
        numbers = all(row[name][:1].isdigit() or not row[name] for row in shown)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=not wrap or name == next(iter(shown[0])))
    for row in shown:
        table.add_row(*(Text(text) for text in row.values()))
    Console().print(table)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else visible(str(value))
