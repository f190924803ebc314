"""Files that are either whole or absent: written under a temporary name, then renamed.

Bytes are on the disk before they get their name, and the name before the writer continues: fsync of the file, rename, fsync
of its folder. A temporary is locked while its writer lives, so the next writer knows and deletes what a killed one left.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from fewclip.errors import OutputError

try:
    import fcntl
except ImportError:  # no flock on this system
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\.(?P<of>.+)\.[0-9a-f]+\.tmp")


def write_files(files: Mapping[Path, bytes], finish: Path | None = None) -> None:
    """Write several files, each of which is whole or absent at any time.

    The bytes of all are on the disk before the first is renamed, so nothing has changed if there is no room; they are
    renamed in order. `finish`, the last of them, is deleted before the others are replaced: where it exists, all files are
    of the same call.

    Raises:
        OutputError: a place can't be written to.
    """
    path = Path()
    try:
        with ExitStack() as stack:
            temporaries: dict[Path, Path] = {}
            for path, data in files.items():
                make_folder(path.parent)
                clear(path.parent, glob.escape(path.name))
                temporaries[path] = stack.enter_context(_temporary(path, data))
            if finish is not None and finish.exists():
                finish.unlink()
                sync_folder(finish.parent)
            for path, temporary in temporaries.items():
                move(temporary, path)
    except OSError as error:
        raise OutputError(
            f"Could not write {path}: {error.strerror or error}. Choose a place with room that you may write to."
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write one file, as `write_files` does.

    Raises:
        OutputError: the place can't be written to.
    """
    write_files({path: data})


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. Lone surrogates, which file names may hold, are written as JSON's escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, as_json(value))


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def as_tensors(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """The bytes of a .safetensors file with JSON metadata; the same for the same content."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return _ordered(save(flat, {name: json.dumps(value) for name, value in meta.items()}))


def _ordered(data: bytes) -> bytes:
    """The file with its metadata sorted: safetensors writes them in a different order at each call."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def move(old: Path, new: Path) -> None:
    """Rename within a folder, replacing what had the new name; on the disk when this returns."""
    os.replace(old, new)
    sync_folder(new.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; on the disk when this returns."""
    if folder.is_dir():
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system does that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # may be written to, but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def clear(folder: Path, *patterns: str) -> None:
    """Delete temporaries of files whose names match, if their writers have ended."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        match = TEMPORARY.fullmatch(name)
        if match and any(fnmatchcase(match["of"], pattern) for pattern in patterns):
            with suppress(OSError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    if lock(descriptor):
                        os.unlink(folder / name)
                finally:
                    os.close(descriptor)


def lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed, which the system does when a process dies.

    Returns whether this process has it now; None where files can't be locked (Windows, some network folders).
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """`data` on the disk beside `path`, under another name; deleted at the end unless it was renamed."""
    temporary, descriptor = _create(path)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)
        os.close(descriptor)


def _create(path: Path) -> tuple[Path, int]:
    """A new locked file beside `path`, and its descriptor."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:  # otherwise `clear` of another process deleted it before the lock
            return temporary, descriptor
        os.close(descriptor)
