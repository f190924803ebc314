"""FewShotClassifier: fit, predict, new classes, save and load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.base import clone
from small import VIT_B16

from fewclip import FewShotClassifier
from fewclip.adapters.config import AdapterConfig
from fewclip.adapters.disk import CARD, CONFIG, WEIGHTS, save_adapter
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError, DataError, FewclipError, PromptError, SettingsError
from fewclip.methods.mmrlpp import MMRLpp, MMRLppSettings

Pairs = list[tuple[Image.Image, str]]
QUICK: dict[str, Any] = {"shots": None, "epochs": 6, "lr": 0.01, "rep_dim": 8}


@pytest.fixture
def fitted(backbone: CLIP, pairs: Pairs) -> FewShotClassifier:
    return FewShotClassifier("mmrl", backbone, **QUICK).fit(pairs)


@pytest.mark.parametrize("method", ["zero-shot", "mmrl", "mmrlpp"])
def test_fit_and_predict(backbone: CLIP, pairs: Pairs, method: str) -> None:
    settings: dict[str, Any] = {} if method == "zero-shot" else {"rep_dim": 8}
    classifier = FewShotClassifier(method, backbone, shots=4, epochs=15, lr=0.01, **settings).fit(pairs)
    images = [image for image, _ in pairs]
    proba = classifier.predict_proba(images)
    assert proba.shape == (12, 3)
    assert proba.dtype == np.float32
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    assert list(classifier.classes_) == ["blue", "green", "red"]
    assert list(classifier.predict(images)) == [classifier.classes_[i] for i in proba.argmax(1)]
    if method != "zero-shot":
        assert classifier.score(pairs) >= 0.9
        assert len(classifier.adapter_.training.history) == 15


def test_kinds_of_images_agree(fitted: FewShotClassifier, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    many = [image, tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), array, tensor]
    proba = fitted.predict_proba(many)
    np.testing.assert_allclose(proba, np.repeat(proba[:1], len(many), 0), rtol=1e-5)
    for single in many:
        np.testing.assert_allclose(fitted.predict_proba(single), proba[:1], rtol=1e-4)
    np.testing.assert_allclose(fitted.predict_proba(np.stack([array, array])), proba[:2], rtol=1e-5)
    assert fitted.predict_proba([]).shape == (0, 3)


def test_large_inputs_come_back_in_order(fitted: FewShotClassifier, pairs: Pairs) -> None:
    images = [image for image, _ in pairs]
    whole = fitted.predict_proba(image for _ in range(15) for image in images)
    np.testing.assert_allclose(whole, np.tile(fitted.predict_proba(images), (15, 1)), atol=1e-5)


def test_known_and_new_classes_together(fitted: FewShotClassifier, pairs: Pairs) -> None:
    images = [image for image, _ in pairs]
    mixed = fitted.predict_proba(images, ["purple", "red", "a zebra", "Blue"])
    assert mixed.shape == (12, 4)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-5)
    alone = fitted.predict_proba(images, ["red", "blue"])  # what both features say of the known ones
    np.testing.assert_allclose(mixed[:, 1] / mixed[:, [1, 3]].sum(1), alone[:, 0], rtol=1e-4)
    assert fitted.predict(images, ["purple", "red"]).shape == (12,)


def test_add_classes_keeps_them(fitted: FewShotClassifier, pairs: Pairs, tmp_path: Path) -> None:
    images = [image for image, _ in pairs]
    before = fitted.scores(images)
    assert fitted.add_classes(["teal", "pink"]) is fitted
    assert list(fitted.classes_) == ["blue", "green", "red", "teal", "pink"]
    after = fitted.scores(images)
    torch.testing.assert_close(after[:, :3].softmax(-1), before.softmax(-1))
    torch.testing.assert_close(after, fitted.scores(images, fitted.classes_))
    fitted.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=fitted.adapter_.clip)
    assert list(again.classes_) == list(fitted.classes_)
    torch.testing.assert_close(again.scores(images), after)
    with pytest.raises(PromptError, match="'blue' and 'Blue '"):
        fitted.add_classes(["Blue "])


def test_save_and_load(fitted: FewShotClassifier, pairs: Pairs, tmp_path: Path, backbone_file: Path) -> None:
    fitted.save(tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {CONFIG, WEIGHTS, CARD}
    stored = load_file(tmp_path / "a" / WEIGHTS)
    assert {k: v.shape for k, v in stored.items()} == {
        k: v.shape for k, v in fitted.adapter_.method.state_dict().items()
    }
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    for name in (
        "method",
        "settings",
        "backbone",
        "backbone_fingerprint",
        "classes",
        "template",
        "fewclip_version",
        "training",
    ):
        assert config[name]
    card = (tmp_path / "a" / CARD).read_text()
    assert "`blue`, `green`, `red`" in card
    again = FewShotClassifier.load(tmp_path / "a")
    images = [image for image, _ in pairs]
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    assert again.adapter_.clip.name == str(backbone_file)


def test_mmrlpp_adapter_of_vit_b16_is_under_4_mb(tmp_path: Path) -> None:
    with torch.device("meta"):
        clip = CLIP(VIT_B16)
    method = MMRLpp(clip, MMRLppSettings())
    config = AdapterConfig(
        method="mmrlpp",
        settings={},
        backbone="ViT-B/16",
        backbone_fingerprint="0" * 64,
        classes=["a", "b"],
        added_classes=[],
        template="a photo of a {}.",
    )
    save_adapter(tmp_path, config, dict(method.state_dict()))
    assert 3_000_000 < (tmp_path / WEIGHTS).stat().st_size < 4_000_000


def test_unknown_keys_of_a_newer_version_are_passed_over(fitted: FewShotClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    config["of_the_future"] = 1
    config["settings"]["of_the_future"] = 1
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    assert (
        FewShotClassifier.load(tmp_path / "a", backbone=fitted.adapter_.clip).adapter_.classes
        == fitted.adapter_.classes
    )


def test_refuses_another_backbone(fitted: FewShotClassifier, tmp_path: Path, other_backbone_file: Path) -> None:
    fitted.save(tmp_path / "a")
    with pytest.raises(
        AdapterError, match=r"was trained on the backbone .*tiny.*fingerprint .* load it with the backbone"
    ):
        FewShotClassifier.load(tmp_path / "a", backbone=str(other_backbone_file))


@pytest.mark.parametrize("keep", [0, 20, 500])
def test_refuses_a_truncated_adapter(fitted: FewShotClassifier, tmp_path: Path, keep: int) -> None:
    fitted.save(tmp_path / "a")
    weights = tmp_path / "a" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(AdapterError, match="truncated or was changed"):
        FewShotClassifier.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda a: (a / CONFIG).unlink(), "adapter_config.json is missing"),
        (lambda a: (a / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
        (lambda a: (a / CONFIG).write_text("{"), "can't be read"),
        (lambda a: (a / CONFIG).write_text('{"method": "mmrl"}'), "can't be read"),
    ],
)
def test_refuses_a_damaged_adapter(fitted: FewShotClassifier, tmp_path: Path, damage: Any, says: str) -> None:
    fitted.save(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(AdapterError, match=says):
        FewShotClassifier.load(tmp_path / "a")


def test_refuses_a_newer_format(fitted: FewShotClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / CONFIG).read_text()) | {"format": 99}
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="upgrade fewclip"):
        FewShotClassifier.load(tmp_path / "a")


def test_an_interrupted_save_leaves_the_old_adapter(
    fitted: FewShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewclip.files.write.os.fsync", full)
    with pytest.raises(FewclipError, match=r"Could not write .*No space left"):
        fitted.save(tmp_path / "a")
    monkeypatch.undo()
    assert (
        FewShotClassifier.load(tmp_path / "a", backbone=fitted.adapter_.clip).adapter_.classes
        == fitted.adapter_.classes
    )
    assert not list((tmp_path / "a").glob("*.tmp"))


def test_behaves_as_a_scikit_learn_estimator(backbone: CLIP, pairs: Pairs) -> None:
    classifier = FewShotClassifier("mmrlpp", backbone, shots=2, epochs=1, beta=0.5, rep_dim=8)
    copy = clone(classifier)
    for name, value in classifier.get_params().items():
        assert name == "backbone" or copy.get_params()[name] == value
    assert copy.set_params(beta=0.2, shots=3).get_params()["beta"] == 0.2
    images, labels = [image for image, _ in pairs], [name for _, name in pairs]
    assert list(copy.fit(images, labels).predict(images[:2], ["red"])) == ["red", "red"]
    assert 0 <= copy.score(images, labels) <= 1
    assert "beta=0.2" in repr(copy)


def test_template_is_a_preset_or_a_sentence(backbone: CLIP, pairs: Pairs) -> None:
    for given, used in (
        ("pet", "a photo of a {}, a type of pet."),
        ("my {} here", "my {} here"),
        (None, "a photo of a {}."),
    ):
        classifier = FewShotClassifier("zero-shot", backbone, shots=None, template=given).fit(pairs)
        assert classifier.adapter_.template == used
    for bad in ("no place", "{} and {}"):
        with pytest.raises(PromptError, match=r"should hold \{\} once"):
            FewShotClassifier("zero-shot", backbone, shots=None, template=bad).fit(pairs)


def test_refuses_what_it_can_not_use(backbone: CLIP, pairs: Pairs, fitted: FewShotClassifier) -> None:
    make = FewShotClassifier
    with pytest.raises(FewclipError, match="is not fitted yet"):
        make("mmrl", backbone).predict([])
    with pytest.raises(SettingsError, match="no method 'mmlr'"):
        make("mmlr", backbone)
    with pytest.raises(SettingsError, match="has no setting 'epoch'.*Settings of training: .*epochs"):
        make("mmrl", backbone, epoch=3)
    with pytest.raises(SettingsError, match="shots is 0"):
        make("mmrl", backbone, shots=0).fit(pairs)
    with pytest.raises(DataError, match="3 images were given with 2 labels"):
        make("mmrl", backbone).fit([image for image, _ in pairs[:3]], ["a", "b"])
    with pytest.raises(DataError, match="doesn't know"):
        fitted.score([(pairs[0][0], "octarine")])
    with pytest.raises(DataError, match="classes is empty"):
        fitted.predict_proba(pairs[0][0], [])
    for name in ("", "  ", "a\nb", "x" * 400):
        with pytest.raises(PromptError, match="class name"):
            fitted.predict_proba(pairs[0][0], ["red", name])
