"""pyarrow, imported only when it is needed."""

from __future__ import annotations

from typing import Any

from fewclip.errors import SettingsError


def arrow() -> Any:
    """The module `pyarrow`, with `pyarrow.parquet`.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SettingsError(
            "Writing predictions to a file needs pyarrow, which is not installed: pip install 'fewclip[scale]'."
        ) from error
    return pyarrow
