"""CSV files and Hugging Face objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_sets import put

from fewclip.data.csv import read_csv
from fewclip.data.dataset import LazyImages
from fewclip.data.hf import read_hub_table
from fewclip.data.read import read_data
from fewclip.errors import DataError


def write_csv(folder: Path, text: str, images: tuple[str, ...] = ("a/1.jpg", "a/2.jpg", "b/1.jpg")) -> Path:
    for image in images:
        put(folder / image)
    file = folder / "labels.csv"
    file.write_text(text)
    return file


def test_csv(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "\ufeffPath,class,remark\nb/1.jpg,zebra,x\n\na/1.jpg,polar_bear,\na/2.jpg, zebra\n")
    data = read_data(str(file))
    assert data.classes == ("polar_bear", "zebra")
    assert (data.keys, list(data.labels)) == (["b/1.jpg", "a/1.jpg", "a/2.jpg"], [1, 0, 1])
    assert data.name == f"{tmp_path.name}/labels.csv"
    assert read_data(file, "test") == data


def test_csv_with_splits(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "path,class,split\na/1.jpg,ant,train\na/2.jpg,ant,Validation\nb/1.jpg,bee,test\n")
    assert [read_csv(file, split).keys for split in ("train", "val", "test")] == [["a/1.jpg"], ["a/2.jpg"], ["b/1.jpg"]]
    assert read_csv(file, "test").classes == ("bee",)
    file.write_text("path,class,split\na/1.jpg,ant,train\n")
    with pytest.raises(DataError, match="has no line for the split 'val', only for train"):
        read_csv(file, "val")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with '': expected a first line with the columns path,class"),
        ("a/1.jpg,ant\n", "begins with 'a/1.jpg,ant': expected a first line"),
        ("path,class\n", "lists no images"),
        ("path,class\na/1.jpg\n", "Line 2 of .*labels.csv lacks a path, a class or a split"),
        ("path,class,split\na/1.jpg,ant,\n", "Line 2 of .* lacks"),
        ("path,class,split\na/1.jpg,ant,dev\n", "Line 2 of .* has the split 'dev': expected train, val or test"),
        ("path,class\n/etc/passwd,ant\n", "Line 2 of .* lists the image '/etc/passwd', which is not a path inside"),
        ("path,class\na/../../b.jpg,ant\n", "not a path inside its folder"),
        ("path,class\na/1.jpg,ant\na/1.jpg,bee\n", "lists a/1.jpg as 'ant' and as 'bee'"),
        (
            "path,class\na/1.jpg,ant\n" + "".join(f"c/{i}.jpg,ant\n" for i in range(9)),
            r"lists 10 images, but 9 of them are not in .*: c/0.jpg, c/1.jpg, c/2.jpg, …\.",
        ),
    ],
)
def test_mistakes_in_a_csv(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_data(write_csv(tmp_path, text))


def test_no_csv(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels.csv can't be read .No such file"):
        read_data(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"path,class\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="it is not UTF-8"):
        read_data(tmp_path / "labels.csv")


def test_folders_of_one_class(tmp_path: Path) -> None:
    put(tmp_path / "light_blue" / "1.jpg")
    put(tmp_path / "light blue" / "1.jpg")
    with pytest.raises(DataError, match="'light blue' and 'light_blue' .* both stand for the class 'light blue'"):
        read_data(tmp_path)


# Stand-ins for the objects of the package `datasets`: only what is used of them


class ClassLabel:
    def __init__(self, *names: str) -> None:
        self.names = list(names)


class Value: ...


class HubImage:
    """Called Image in `datasets`."""


HubImage.__name__ = "Image"


class Table:
    def __init__(self, rows: list[dict[str, Any]], split: str | None = "train", **features: Any) -> None:
        self.rows, self.features, self.split, self.decoded = rows, features, split, 0
        self.info = SimpleNamespace(dataset_name="toys")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        self.decoded += 1
        return self.rows[key]


class Stream:
    """An IterableDataset: it has features, and rows in order."""

    def __init__(self, table: Table) -> None:
        self.table, self.features = table, table.features

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.table.rows)


def toys(labels: list[Any], feature: Any, split: str = "train") -> Table:
    rows = [{"picture": Image.new("RGB", (4, 4), (i, 0, 0)), "kind": label} for i, label in enumerate(labels)]
    return Table(rows, split, picture=HubImage(), kind=feature)


def test_hub_table() -> None:
    table = toys([2, 0, 2], ClassLabel("zebra", "ant", "bee"))
    data = read_data(table)
    assert (data.name, data.classes, list(data.labels)) == ("toys", ("zebra", "ant", "bee"), [2, 0, 2])
    assert data.keys == ["train/0", "train/1", "train/2"]
    part = data.only(["bee", "ant"]).take([1, 0])
    assert table.decoded == 0
    assert isinstance(part.images, LazyImages)
    assert [image.getpixel((0, 0)) for image in part.images] == [(2, 0, 0), (0, 0, 0)]
    assert table.decoded == 2
    assert len(data.images[:2]) == 2


def test_hub_splits_and_streams() -> None:
    parts = {"train": toys([0], ClassLabel("a")), "validation": toys([0, 0], ClassLabel("a"), "validation")}
    assert len(read_data(parts, "val")) == 2
    with pytest.raises(DataError, match="has the splits train, validation, but none called 'test'"):
        read_data(parts, "test")
    data = read_data(Stream(toys([1, 0], ClassLabel("a", "b"))), "test")
    assert (list(data.labels), data.keys) == ([1, 0], ["test/0", "test/1"])


def test_hub_labels_in_words() -> None:
    table = Table([{"image": b"", "label": name} for name in ("b", "a")], image=HubImage(), label=Value())
    assert read_data(table).classes == ("a", "b")
    table = Table([{"image": b"", "number": n} for n in (5, 3)], image=HubImage(), number=Value())
    assert read_hub_table(table, label="number").classes == ("3", "5")


def test_mistakes_with_hub_tables() -> None:
    with pytest.raises(DataError, match=r"has 1 rows without a class in the column 'kind', such as row 1"):
        read_data(toys([0, -1], ClassLabel("a")))
    with pytest.raises(DataError, match="toys has no rows"):
        read_data(toys([], ClassLabel("a")))
    table = Table([{"x": 1}], x=Value(), image=HubImage())
    with pytest.raises(DataError, match=r"columns x \(Value\), image \(Image\), and none of them is clearly the label"):
        read_data(table)
    with pytest.raises(DataError, match="has no column 'y': choose the label from x, image"):
        read_hub_table(table, label="y")
    two = Table([{}], image=HubImage(), coarse=ClassLabel("a"), fine=ClassLabel("b"))
    with pytest.raises(DataError, match="none of them is clearly the label"):
        read_data(two)
