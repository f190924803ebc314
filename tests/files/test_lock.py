"""The lock of an output folder."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from fewclip.errors import OutputError
from fewclip.files.lock import LOCK, only_writer


def refused(folder: Path) -> bool:
    """Whether another thread is kept out; threads are kept out as processes are."""

    def enter() -> None:
        with only_writer(folder):
            pass

    with ThreadPoolExecutor(1) as other:
        error = other.submit(enter).exception()
    assert error is None or isinstance(error, OutputError)
    return error is not None


def test_a_nested_writer_leaves_the_lock_to_the_outer_one(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        with only_writer(tmp_path / ".." / tmp_path.name):
            assert refused(tmp_path)
        assert refused(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not refused(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_frees_the_folder_and_a_new_empty_one_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path / "new" / "out"):
        raise KeyError
    assert not (tmp_path / "new" / "out").exists()
    with only_writer(tmp_path / "kept"):
        (tmp_path / "kept" / "file").write_text("")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


@pytest.mark.parametrize(("number", "works"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_a_file_system_without_locks_can_be_written_to(
    number: int, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(*arguments: object, **more: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    if works:
        with only_writer(tmp_path / "out"):
            (tmp_path / "out" / "file").write_text("")
    else:
        sentence = r"labels\.csv can't be used: no\. Choose one that you may write to"
        with pytest.raises(OutputError, match=sentence), only_writer(tmp_path / "out", output=tmp_path / "labels.csv"):
            pass
