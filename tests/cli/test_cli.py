"""The command line: its output, exit statuses, and one clear sentence for every mistake."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK, Capture, mistake
from PIL import Image

from fewclip.cli import COMMANDS, main


@pytest.fixture
def adapter(tmp_path: Path, photos: Path, backbone_file: Path, capsys: Capture) -> Path:
    out = tmp_path / "adapter"
    assert main(["fit", str(photos), "-o", str(out), "--backbone", str(backbone_file), *QUICK]) == 0
    capsys.readouterr()
    return out


def test_overview_and_version(capsys: Capture) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fewclip 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"fewclip {command}" in capsys.readouterr().out


def test_options_follow_the_method(capsys: Capture) -> None:
    for method, option, shown in (
        ("mmrl", "--beta", False),
        ("mmrlpp", "--beta", True),
        ("zero-shot", "--rep-dim", False),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--method", method, "--help"])
        assert (option in capsys.readouterr().out) == shown


def test_fit_says_what_it_did(tmp_path: Path, photos: Path, backbone_file: Path, capsys: Capture) -> None:
    arguments = ["fit", str(photos), "-o", str(tmp_path / "a"), "--backbone", str(backbone_file), *QUICK]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["classes"] == ["blue", "green", "red"]
    assert summary["images"] == 12
    assert summary["parameters"] > 1000
    assert main([*arguments, "--overwrite", "--method", "mmrlpp"]) == 0
    shown = capsys.readouterr().out
    assert "3 classes, 12 images" in shown
    assert f"fewclip eval {tmp_path / 'a'}" in shown
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["method"] == "mmrlpp"


def test_predict(adapter: Path, photos: Path, capsys: Capture) -> None:
    red = str(photos / "red" / "0.png")
    assert main(["predict", str(adapter), red, str(photos / "blue"), "--json", "--top", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["image"]).parent.name for row in rows] == ["red"] + ["blue"] * 8
    assert [len(row["classes"]) for row in rows] == [2] * 9
    assert main(["predict", str(adapter), red, "--csv", "--top", "9"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["class"] for row in table} == {"blue", "green", "red"}
    assert sum(float(row["probability"]) for row in table) == pytest.approx(1, abs=1e-4)
    assert main(["predict", str(adapter), red, "--classes", "red, purple ,a zebra", "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("red ", "purple ", "a zebra "))


def test_an_unreadable_image_does_not_stop_the_others(adapter: Path, photos: Path, capsys: Capture) -> None:
    broken = photos / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    good = photos / "red" / "1.png"
    assert main(["predict", str(adapter), str(broken), str(good), "--json"]) == 1
    captured = capsys.readouterr()
    first, second = (json.loads(line) for line in captured.out.splitlines())
    assert "0.png" in first["error"]
    assert second["classes"]
    assert "1 of 2 images could not be read" in captured.err


def test_eval(adapter: Path, photos: Path, capsys: Capture) -> None:
    assert main(["eval", str(adapter), str(photos)]) == 0
    shown = capsys.readouterr().out
    assert "of 12 images" in shown
    assert "12 training images left out" in shown
    for name, kept in (("black", "purple"), ("red", "red")):
        (photos / kept).mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), name).save(photos / kept / "new.png")
    for split, classes, images in (("novel", 1, 1), ("all", 4, 14), ("base", 3, 13)):
        assert main(["eval", str(adapter), str(photos), "--split", split, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["classes"], result["images"]) == (classes, images)
        assert 0 <= result["accuracy"] <= 100
    assert main(["eval", str(adapter), str(photos), "--per-class"]) == 0
    assert "%  red" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["methods", "backbones", "data"])
def test_lists(command: str, capsys: Capture) -> None:
    assert main([command]) == 0
    assert capsys.readouterr().out
    assert main([command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.fixture
def parted(photos: Path, tmp_path: Path) -> Path:
    """The photos in train/, val/ and test/."""
    for path in sorted(photos.glob("*/*.png")):
        split = {"0": "val", "1": "val", "2": "test"}.get(path.stem, "train")
        place = tmp_path / "parted" / split / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return tmp_path / "parted"


def test_fit_chooses_by_validation_images(
    tmp_path: Path, photos: Path, parted: Path, backbone_file: Path, capsys: Capture
) -> None:
    fit = ["fit", str(parted), "--backbone", str(backbone_file), "--shots", "4", "--method"]
    assert main([*fit, "linear-probe", "--val", "split", "-o", str(tmp_path / "a")]) == 0
    assert "Chosen by 6 validation images: c " in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["training"]["val_images"] == 6
    few = ["--alpha-steps", "2", "--beta-steps", "3", "--passes", "1"]
    assert main([*fit, "tip-adapter", *few, "--val", str(photos), "-o", str(tmp_path / "b"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["val_images"] == 24
    assert set(summary["chosen"]) == {"alpha", "beta"}

    out = ["-o", str(tmp_path / "c")]
    mistake([*fit, "coop", "--val", "split", *out], capsys, "coop does not use validation images", "linear-probe (C)")
    fit[1] = str(photos)
    mistake([*fit, "linear-probe", "--val", "split", *out], capsys, "no separate validation images", "train split")
    mistake([*fit, "linear-probe", "--val", str(tmp_path / "none"), *out], capsys, "There is no folder")
    assert not (tmp_path / "c").exists()


def test_mistakes_of_fit(tmp_path: Path, photos: Path, backbone_file: Path, capsys: Capture) -> None:
    out = ["-o", str(tmp_path / "out"), "--backbone", str(backbone_file), *QUICK]
    mistake(["fit", str(tmp_path / "nowhere"), *out], capsys, "There is no folder", "give a folder that holds")
    empty = tmp_path / "empty"
    empty.mkdir()
    mistake(["fit", str(empty), *out], capsys, "has no classes", "Expected one folder of images per class")
    one = tmp_path / "one"
    (one / "red").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(one / "red" / "a.png")
    mistake(["fit", str(one), *out], capsys, "only one class, 'red'", "at least two")
    mistake(["fit", str(photos), *out, "--shots", "9"], capsys, "has 8 training images, but 9 shots", "at most 8")
    mistake(["fit", str(photos), *out, "--template", "no place"], capsys, "should hold {} once")
    mistake(["fit", str(photos), *out, "--template", "a " * 40 + "{}"], capsys, "tokens", "32")
    mistake(["fit", str(photos), *out, "--backbone", "no-such-clip"], capsys, "no-such-clip", "icon-clip")
    mistake(["fit", str(photos), *out, "--alpha", "2"], capsys, "alpha is 2.0", "between 0 and 1")
    mistake(["fit", str(photos), *out, "--lr", "1e30"], capsys, "The loss became", "Lower lr")
    mistake(["fit", str(photos), *out, "--method", "mmlr"], capsys, "no method 'mmlr'", "mmrl, mmrlpp")
    (photos / "Red ").mkdir()
    for i in range(8):
        Image.new("RGB", (4, 4)).save(photos / "Red " / f"{i}.png")
    mistake(["fit", str(photos), *out], capsys, "'Red' and 'red'", "same prompt", "rename")
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_an_unreadable_training_image_is_named(
    tmp_path: Path, photos: Path, backbone_file: Path, capsys: Capture
) -> None:
    for path in (photos / "red").iterdir():
        path.write_bytes(b"not an image")
    arguments = ["fit", str(photos), "-o", str(tmp_path / "out"), "--backbone", str(backbone_file), *QUICK]
    mistake(arguments, capsys, "red/", ".png")


def test_mistakes_of_the_output_folder(tmp_path: Path, photos: Path, adapter: Path, capsys: Capture) -> None:
    fit = ["fit", str(photos), *QUICK]
    mistake([*fit, "-o", str(adapter)], capsys, "holds a finished adapter", "--overwrite")
    mistake([*fit, "-o", str(photos)], capsys, "is not empty, it holds blue", "give a new one")
    file = tmp_path / "file"
    file.write_text("x")
    mistake([*fit, "-o", str(file)], capsys, "is a file")


def test_mistakes_with_adapters(
    tmp_path: Path, photos: Path, adapter: Path, other_backbone_file: Path, capsys: Capture
) -> None:
    image = str(photos / "red" / "0.png")
    mistake(["predict", str(tmp_path / "none"), image], capsys, "There is no adapter folder")
    mistake(["predict", str(photos), image], capsys, "adapter_config.json is missing")
    mistake(["predict", str(adapter), image, "--backbone", str(other_backbone_file)], capsys, "trained on the backbone")
    mistake(["predict", str(adapter), str(tmp_path / "none.png")], capsys, "There is no image")
    mistake(["predict", str(adapter)], capsys, "No images were given")
    mistake(["predict", str(adapter), image, "--classes", "red,Red"], capsys, "same prompt")
    mistake(["predict", str(adapter), image, "--json", "--csv"], capsys, "choose one")
    mistake(["predict", str(adapter), image, "--top", "0"], capsys, "--top is 0")
    mistake(["eval", str(adapter), str(photos), "--split", "novel"], capsys, "nothing to evaluate", "'base'")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    mistake(["predict", str(adapter), image], capsys, "truncated or was changed")


def test_a_truncated_backbone_is_refused(tmp_path: Path, photos: Path, backbone_file: Path, capsys: Capture) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(backbone_file.read_bytes()[:5000])
    mistake(
        ["fit", str(photos), "-o", str(tmp_path / "out"), "--backbone", str(broken), *QUICK],
        capsys,
        "broken.safetensors",
    )


def test_unknown_command(capsys: Capture) -> None:
    mistake(["fti"], capsys, "no command 'fti'", "fit, predict")


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "fewclip", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fewclip ")


def test_importing_is_light() -> None:
    """Neither `import fewclip` nor the overview loads torch: what is heavy is imported when it is used."""
    code = "import sys, fewclip, fewclip.cli; fewclip.cli.main([]); sys.exit('torch' in sys.modules or 'tyro' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
