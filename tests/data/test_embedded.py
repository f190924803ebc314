"""The embedded backbone and data sets are what their descriptions say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fewclip import FewShotClassifier
from fewclip.bench.evaluation import choose, evaluate
from fewclip.clip.load import EMBEDDED as BACKBONES
from fewclip.clip.model import CLIP
from fewclip.clip.preprocess import read_image
from fewclip.data.embedded import EMBEDDED, FOLDER, describe
from fewclip.data.read import read_data
from fewclip.data.sheet import Sample, sheet


@pytest.fixture(scope="module")
def icon_clip() -> CLIP:
    return CLIP.from_pretrained("icon-clip")


def test_size_of_what_is_shipped() -> None:
    assert sum((FOLDER / f"{name}.zip").stat().st_size for name in EMBEDDED) < 6e6
    for folder in BACKBONES.values():
        assert (Path(folder) / "model.safetensors").stat().st_size <= 12e6


@pytest.mark.parametrize("name", EMBEDDED)
def test_data(name: str) -> None:
    parts = {split: read_data(name, split) for split in ("train", "val", "test")}
    meta = describe(name)
    train, test = parts["train"], parts["test"]
    assert list(train.classes) == meta["classes"]
    assert "{}" in meta["template"]
    base, novel = train.halves()
    assert len(base) - len(novel) in (0, 1)
    counts, tested = Counter(train.labels), Counter(test.labels)
    assert all(tested[i] >= 2 for i in range(len(train.classes)))
    if name != "kinds-mono":  # the shifted domain is for testing
        assert set(counts.values()) == {16}
    assert all(read_image(image).mode == "RGB" for image in list(test.images)[::50])


def test_no_object_on_both_sides() -> None:
    import csv
    import io
    import zipfile

    for name in EMBEDDED:
        with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
            rows = list(csv.DictReader(io.StringIO(archive.read("index.csv").decode())))
        objects = {
            split: {row["object"] for row in rows if row["split"] == split} for split in ("train", "val", "test")
        }
        assert not objects["train"] & objects["test"]
        assert not objects["train"] & objects["val"]
        assert not objects["val"] & objects["test"]


def test_few_shot_beats_zero_shot_and_keeps_new_classes(icon_clip: CLIP) -> None:
    """One quick run of the demo's claim, with wide margins; `fewclip demo` shows the real figures."""
    train, test = read_data("icons"), read_data("icons", "test")
    base = train.only(train.halves()[0])
    found = {}
    for method in ("zero-shot", "mmrl"):
        classifier = FewShotClassifier(method, icon_clip, batch_size=32, epochs=5, lr=2e-3).fit(base)
        for split in ("base", "novel"):
            found[method, split] = evaluate(classifier.adapter_, choose(test, base.classes, split)).accuracy
    assert found["zero-shot", "base"] > 3 * 100 / 19
    assert found["mmrl", "base"] > found["zero-shot", "base"] + 5
    assert found["mmrl", "novel"] > found["zero-shot", "novel"] - 8


def test_picture_sheet(tmp_path: Path) -> None:
    from PIL import Image

    test = read_data("icons", "test")
    samples = [Sample(test.images[i], "bird", [("MMRL", "bird"), ("zero-shot", "fish")]) for i in range(3)]
    sheet("title", [("a", samples), ("b", samples[:1])], tmp_path / "deep" / "sheet.png")
    with Image.open(tmp_path / "deep" / "sheet.png") as image:
        assert image.width > 500
        assert len(image.getcolors(1 << 20) or []) > 50
