"""Adapters that older versions of fewclip wrote keep loading and say what they said; newer formats are refused clearly."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from fewclip import FewShotClassifier
from fewclip.adapters.config import FORMAT
from fewclip.adapters.disk import CONFIG, WEIGHTS
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEPT = sorted(path.parent for path in FIXTURES.glob(f"format-*/*/{CONFIG}"))

_spec = importlib.util.spec_from_file_location("make_adapters", FIXTURES / "make_adapters.py")
assert _spec is not None
assert _spec.loader is not None
make_adapters = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_adapters)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    clip: CLIP = make_adapters.backbone(tmp_path_factory.mktemp("exact"))
    return clip


def test_every_format_is_kept() -> None:
    assert {path.parent.name for path in KEPT} == {f"format-{number}" for number in range(1, FORMAT + 1)}
    assert {path.name for path in KEPT} >= {"mmrlpp", "coop", "tip-adapter"}


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_old_adapter_says_what_it_said(folder: Path, exact: CLIP) -> None:
    kept = json.loads((folder / "scores.json").read_text())
    shown = [image for image, _ in make_adapters.pictures(6, start=100)]
    classifier = FewShotClassifier.load(folder, backbone=exact, device="cpu")
    assert classifier.adapter_.classes == kept["classes"]
    torch.testing.assert_close(classifier.scores(shown), torch.tensor(kept["scores"]), atol=2e-3, rtol=0)
    with torch.no_grad():
        for tensor in classifier.adapter_.method.state_dict().values():
            tensor.mul_(-1)
    classifier.adapter_._last = None
    assert (classifier.scores(shown) - torch.tensor(kept["scores"])).abs().max() > 0.1, (
        "the scores don't depend on the file"
    )


def test_the_same_adapter_is_the_same_file(exact: CLIP, tmp_path: Path) -> None:
    classifier = FewShotClassifier.load(KEPT[0], backbone=exact, device="cpu")
    for n in range(6):  # the order of metadata that safetensors writes is random
        classifier.save(tmp_path / str(n))
    assert len({(tmp_path / str(n) / WEIGHTS).read_bytes() for n in range(6)}) == 1
    again = FewShotClassifier.load(tmp_path / "0", backbone=exact, device="cpu")
    for name, tensor in classifier.adapter_.method.state_dict().items():
        torch.testing.assert_close(again.adapter_.method.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_newer_format_is_refused_before_its_keys_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(KEPT[0], folder)
    config = json.loads((folder / CONFIG).read_text())
    newer = {key: config[key] for key in ("method", "backbone_fingerprint")} | {
        "format": FORMAT + 1,
        "fewclip_version": "9.9",
    }
    (folder / CONFIG).write_text(json.dumps(newer))
    with pytest.raises(
        AdapterError, match=rf"format {FORMAT + 1} of fewclip 9\.9, .* reads formats up to {FORMAT}: upgrade"
    ):
        FewShotClassifier.load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": "red"}, "classes is 'red'"),
        ({"classes": ["red", 3]}, "classes is"),
        ({"settings": []}, r"settings is '\[\]'"),
        ({"method": None}, "method is 'None'"),
        ({"format": "1"}, "format is '1'"),
        ({"training": 1}, "training is '1'"),
    ],
)
def test_values_of_another_type_are_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(KEPT[0], folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(AdapterError, match=says):
        FewShotClassifier.load(folder)


def test_an_adapter_of_another_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    with pytest.raises(AdapterError, match="can't be read as an adapter of fewclip"):
        FewShotClassifier.load(tmp_path)
