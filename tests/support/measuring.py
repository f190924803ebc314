"""What a call takes of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest


def _status(name: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def grown_mb(call: Callable[[], object], errors: type[Exception]) -> float:
    """How far the highest memory of the process rose above that before the call, which may raise such errors."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    except OSError:
        pytest.skip("the highest memory is only known on Linux")
    before = _status("VmRSS")
    with suppress(errors):
        call()
    return _status("VmHWM") - before
