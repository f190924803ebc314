"""Progress on standard error: lines, or a bar on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from fewclip.training.progress import ProgressBar
from fewclip.workers import progress
from fewclip.workers.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_without_a_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("predict", 1000, "images") as bar:
        bar.update(400)  # of an earlier run: they do not count for the rate
        for second in range(1, 61):
            clock[0] += 1
            bar.update(400 + 5 * second)
        bar.print("a line")
    assert capsys.readouterr().err.splitlines() == [
        "550 of 1,000 images, 5.0 images/s, 2 min left",
        "700 of 1,000 images, 5.0 images/s, 1 min left",
        "a line",
    ]
    assert bar.rate() == "5.0 images/s"


def test_slow_work_counts_per_minute_and_quiet_work_shows_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("bench", 12, "runs", shown=False) as bar:
        bar.update(0)
        clock[0] += 120
        bar.update(3)
        bar.print("a line")
    assert bar.rate() == "1.5 runs/min"
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "160")
    with Progress("predict", 0, "images") as bar:
        bar.total = 2000
        bar.update(1000, "[not markup]")
        bar.print("a line [kept]")
    said = sys.stderr.getvalue()  # type: ignore[attr-defined, union-attr]
    assert "1,000 of 2,000 images  [not markup]" in said
    assert "a line [kept]\n" in said.replace("\x1b[2K", "").replace("\r", "")


def test_training_that_is_resumed_counts_what_was_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("mmrl", 10, 1000, shown=True) as bar:
        for loss in (1.0, 0.0):
            clock[0] += 40
            bar.report(6, 4, loss)
    assert bar.done == 508
    assert capsys.readouterr().err.splitlines() == [
        "500 of 1,000 images",
        "508 of 1,000 images, 12.0 images/min, 41 min left, epoch 6/10, loss 0.950",
    ]
    assert bar.loss == pytest.approx(0.95)
