"""`fewclip data`, and fitting and evaluating on data sets by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import QUICK, Capture, mistake
from pictures import picture
from PIL import Image
from tiny_sets import SHARED, put, write_set

from fewclip import FewShotClassifier
from fewclip.bench.evaluation import evaluate
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.data.dataset import Dataset


def test_list(capsys: Capture) -> None:
    for arguments in (["data"], ["data", "list"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in ("icons", "caltech101", "imagenet_sketch", "1,281,167"))
        assert main([*arguments, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert len(rows) == 18
        assert rows[-1]["name"] == "imagenet_r"
        assert rows[-1]["test"] == 30000


@pytest.mark.skipif(not (SHARED / "data").exists(), reason=f"the small real data is not in {SHARED}")
def test_check_of_real_data(capsys: Capture) -> None:
    root = str(SHARED / "data")
    assert main(["data", "check", root, "caltech101", "Flowers102"]) == 0
    shown = capsys.readouterr().out
    assert "caltech101: complete, train 4,128/4,128, val 1,649/1,649, test 2,465/2,465" in shown
    assert "2 of 2 data sets are complete" in shown
    assert main(["data", "check", root, "--json"]) == 1
    reports = {report["name"]: report for report in json.loads(capsys.readouterr().out)}
    assert len(reports) == 15
    assert reports["oxford_flowers"]["state"] == "complete"
    assert reports["sun397"]["state"] == "absent"
    assert "OpenDataLab" in reports["sun397"]["source"]


def test_check_says_what_is_wrong(tmp_path: Path, capsys: Capture) -> None:
    folder = write_set(tmp_path, "eurosat")
    images = sorted((folder / "2750" / "SeaLake").iterdir())
    images[0].unlink()
    images[1].write_bytes(b"no image")
    command = ["data", "check", str(tmp_path), "eurosat", "dtd"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "eurosat: incomplete, train 5/13,500, val 2/5,400, test 4/8,100" in shown
    assert f"1 of 6 train images are not in {folder / '2750'}: SeaLake/{images[0].name}" in shown
    assert "train has 6 images instead of the published 13500" in shown
    assert "there are 2 classes instead of the published 10" in shown
    assert "dtd: absent, expected in" in shown
    assert "can't be read" not in shown
    assert main([*command, "--images"]) == 1
    assert f"1 test images can't be read: {images[1]}" in capsys.readouterr().out
    (folder / "split_zhou_EuroSAT.json").unlink()
    assert main(command) == 1
    assert capsys.readouterr().out.count("lacks split_zhou_EuroSAT.json") == 1


def test_mistakes_of_check_and_show(tmp_path: Path, capsys: Capture) -> None:
    mistake(["data", "check", str(tmp_path / "none")], capsys, "is not a folder: give the one that holds")
    mistake(["data", "check", str(tmp_path), "cifar"], capsys, "no benchmark data set 'cifar'", "caltech101")
    mistake(["data", "show", "dtd", "--root", str(tmp_path)], capsys, "DTD is not in")
    mistake(["data", "show", str(tmp_path / "none")], capsys, "There is no folder")
    folder = write_set(tmp_path, "dtd")
    next((folder / "images" / "banded").iterdir()).unlink()
    mistake(["data", "show", str(folder)], capsys, "1 of them are not in")


@pytest.mark.parametrize("key", ["dtd", "imagenet_r", "fgvc_aircraft"])
def test_show(key: str, tmp_path: Path, capsys: Capture) -> None:
    write_set(tmp_path, key)
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", key, "--root", str(tmp_path), "-o", str(sheet)]) == 0
    shown = capsys.readouterr().out
    says = {"dtd": "2 classes, train 6, val 2, test 4", "imagenet_r": "200 classes, test 4", "fgvc_aircraft": "F-16A/B"}
    assert says[key] in shown
    assert "Template: " in shown
    assert Image.open(sheet).width > 300


def test_show_a_folder_and_an_embedded_set(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "show", str(photos)]) == 0
    assert "photos: 3 classes, all 24" in capsys.readouterr().out
    assert main(["data", "show", "icons", "-o", str(tmp_path / "icons.png")]) == 0
    assert "Base: the first 19 classes, novel: the other 19" in capsys.readouterr().out


def test_fit_and_eval_by_name(tmp_path: Path, backbone_file: Path, capsys: Capture) -> None:
    write_set(tmp_path / "root", "dtd")
    out = str(tmp_path / "out")
    root = ["--root", str(tmp_path / "root")]
    assert main(["fit", "dtd", "-o", out, "--backbone", str(backbone_file), *QUICK, *root, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["classes"] == ["class_0", "class_1"]
    assert summary["images"] == 6  # --shots 4, and each class has 3
    assert summary["template"] == "{} texture."
    assert main(["eval", out, "dtd", *root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4


def test_fit_on_a_csv(tmp_path: Path, backbone_file: Path, capsys: Capture) -> None:
    lines = ["path,class"]
    for i in range(8):
        put(tmp_path / f"{i}.jpg")
        lines.append(f"{i}.jpg,{'even' if i % 2 == 0 else 'odd'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = str(tmp_path / "labels.csv")
    assert main(["fit", data, "-o", str(tmp_path / "a"), "--backbone", str(backbone_file), *QUICK]) == 0
    assert "2 classes, 8 images" in capsys.readouterr().out


def test_classes_of_one_name(backbone: CLIP) -> None:
    """As ImageNet's two missiles: equal logits, the first is chosen, so the second's images count as wrong."""
    images = [picture((200, 40, 40), i) for i in range(6)]
    data = Dataset("two", ("missile", "tench", "missile"), images, [0, 0, 1, 1, 2, 2], published=True)
    classifier = FewShotClassifier("zero-shot", backbone, shots=2).fit(data)
    scores = classifier.scores(images)
    torch.testing.assert_close(scores[:, 0], scores[:, 2])
    result = evaluate(classifier.adapter_, data)
    assert list(result.per_class) == ["missile", "tench", "missile (2)"]
    assert result.per_class["missile (2)"] == 0
    assert classifier.score(data) == pytest.approx(result.accuracy / 100, abs=1e-4)
    classifier.add_classes(["tank"])
    assert classifier.predict_proba(images[:1]).shape == (1, 4)
