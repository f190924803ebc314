"""Commands that end soon, and what every mistake in one must end in."""

from __future__ import annotations

import pytest

from fewclip.cli import main

QUICK = ["--epochs", "3", "--shots", "4", "--rep-dim", "8", "--lr", "0.01"]
Capture = pytest.CaptureFixture[str]


def mistake(arguments: list[str], capsys: Capture, *says: str) -> None:
    """The command fails with status 2 and one sentence or two on standard error, no traceback."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("fewclip")
    for words in says:
        assert words in last
    assert "Traceback" not in captured.err
