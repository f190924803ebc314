"""What the tests of prediction into a file share: an adapter, an executor in this process, every kind of source."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pictures import COLOURS, picture

from fewclip import FewShotClassifier
from fewclip.bulk import Done, Job, label, parquet, pieces, sources, tars
from fewclip.bulk.local import Finish
from fewclip.bulk.predictor import Order, Predictor, Spec

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'fewclip[scale]'")
pq = pytest.importorskip("pyarrow.parquet")
Row = dict[str, Any]


def here(orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
    """Executes in this process."""
    for part in Predictor(spec).parts(orders):
        finish(part)


def png(name: str, seed: int) -> bytes:
    out = BytesIO()
    picture(COLOURS[name], seed).save(out, "PNG")
    return out.getvalue()


IMAGES = {f"{name}/{n}.png": png(name, n) for name in sorted(COLOURS) for n in range(4)}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, backbone_file: Path) -> Path:
    return fitted("zero-shot", tmp_path_factory.mktemp("adapter"), backbone_file)


def fitted(method: str, folder: Path, backbone_file: Path) -> Path:
    examples = [(picture(colour, 50 + n), name) for name, colour in COLOURS.items() for n in range(2)]
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 3} if method != "zero-shot" else {}
    quick |= {"rep_dim": 8} if method == "mmrl" else {}
    FewShotClassifier(method, str(backbone_file), shots=2, **quick).fit(examples).save(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kinds(tmp_path, IMAGES)
    return tmp_path / "folder"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pieces, sources, tars, parquet):
        monkeypatch.setattr(module, "PIECE", 4)


def read(out: Path) -> list[Row]:
    found: list[Row] = pq.read_table(out).to_pylist()
    return found


def make(adapter: Path, named: Any, out: Path, **more: Any) -> Done:
    named = [named] if isinstance(named, (str, Path)) else named
    how: dict[str, Any] = {"executor": here}
    how |= {key: more.pop(key) for key in ("executor", "overwrite", "report") if key in more}
    return label(Job(adapter=str(adapter), sources=tuple(map(str, named)), **more), out, **how)


def as_tar(path: Path, members: Sequence[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_parquet(path: Path, columns: dict[str, Any], row_group: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def as_list(path: Path, lines: Sequence[str | Path], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(str(line).encode("utf-8", "surrogateescape") + end.encode() for line in lines))
    return path


def hub_column(values: Sequence[tuple[bytes | None, str | None]]) -> Any:
    """Hugging Face's image column."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": data, "path": path} for data, path in values], kind)


def kinds(root: Path, images: dict[str, bytes]) -> dict[str, Callable[[], tuple[list[str], list[str], list[str]]]]:
    """Kind -> what to name on the command line, and the paths and ids that the rows should have."""
    names, data = list(images), list(images.values())
    for name, one in images.items():
        (root / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "folder" / name).write_bytes(one)
    folder = root / "folder"
    paths = [str(folder / name) for name in names]

    def parquet(columns: dict[str, Any], ids: list[str]) -> tuple[list[str], list[str], list[str]]:
        file = as_parquet(root / "one.parquet", columns, row_group=4)
        return [str(file)], [f"{file}#{row}" for row in range(len(names))], ids

    def tars() -> tuple[list[str], list[str], list[str]]:
        found = []
        for shard, start in enumerate(range(0, len(names), 4)):
            part = list(zip(names, data, strict=True))[start : start + 4]
            extra = [("about.json", b"{}"), (".hidden.png", b"x"), (f"{start}.txt", b"red")]
            file = as_tar(root / f"shards/{shard:03d}.tar", [*extra, *part])
            found += [f"{file}/{name}" for name, _ in part]
        return [str(root / f"shards/{{000..{shard:03d}}}.tar")], found, [name.partition(".")[0] for name in names]

    def glob_of_tars() -> tuple[list[str], list[str], list[str]]:
        _, found, ids = tars()
        return [str(root / "shards/*.tar")], found, ids

    def folder_of_tars() -> tuple[list[str], list[str], list[str]]:
        _, found, ids = tars()
        return [str(root / "shards")], found, ids

    numbers = [str(row) for row in range(len(names))]
    return {
        "folder": lambda: ([str(folder)], paths, names),
        "files": lambda: (paths, paths, paths),
        "glob": lambda: ([str(folder / "**/*.png")], paths, paths),
        "list": lambda: (
            [str(as_list(root / "folder/list.txt", ["\ufeff" + names[0], "", *names[1:], names[2]], end="\r\n"))],
            paths,
            names,
        ),
        "list of absolute paths": lambda: ([str(as_list(root / "list.txt", paths))], paths, paths),
        "parquet of bytes": lambda: parquet({"label": numbers, "image": data}, numbers),
        "parquet of {bytes, path}": lambda: parquet(
            {"image": hub_column(list(zip(data, names, strict=True))), "label": numbers}, names
        ),
        "parquet of paths": lambda: (
            [str(as_parquet(root / "folder/paths.parquet", {"path": names, "n": list(range(len(names)))}))],
            paths,
            names,
        ),
        "folder of parquet": lambda: (
            [str(as_parquet(root / "set/data/0.parquet", {"jpg": data}).parents[1])],
            [f"{root}/set/data/0.parquet#{row}" for row in numbers],
            numbers,
        ),
        "tars by braces": tars,
        "tars by glob": glob_of_tars,
        "folder of tars": folder_of_tars,
    }
