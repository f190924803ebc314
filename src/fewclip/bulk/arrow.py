"""pyarrow, imported only when it is needed."""

from __future__ import annotations

from typing import Any

from fewclip.errors import SettingsError

NEEDED = "Writing predictions to a file needs pyarrow, which is not installed: pip install 'fewclip[scale]'."


def arrow() -> Any:
    """The module `pyarrow`.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise SettingsError(NEEDED) from error
    return pyarrow


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        SettingsError: it is not installed.
    """
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet
