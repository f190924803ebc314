"""What a run cost and where it ran."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fewclip.version import __version__


class PeakMemory:
    """The highest memory of this process and of its GPU since this object was made."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def mb(self) -> float | None:
        """Of main memory, in MiB; None where the system does not report it."""
        try:
            line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
            return round(int(line.split()[1]) / 1024, 1)
        except (OSError, StopIteration):
            pass
        try:
            import resource
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)

    def gpu_mb(self) -> float | None:
        """Of the GPU, in MiB; None without one."""
        return round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None


def machine() -> dict[str, Any]:
    """Processor, cores, threads in use, GPU."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    return {"fewclip": __version__, "torch": torch.__version__, "python": platform.python_version()}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
