"""What every worker process of this machine does first."""

from __future__ import annotations

import os
import threading


def prepare(threads: int) -> None:
    """Its share of the cores; and it ends when the process that made it is gone, even by kill -9."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
