"""A classifier is whole at every moment: what stops a fit, or is refused, leaves it as it was."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.adapters.adapter import Adapter
from fewclip.clip.model import CLIP
from fewclip.errors import DataError, NotFittedError, PromptError, SettingsError
from fewclip.methods.mmrl import MMRL

Pairs = list[tuple[Any, str]]
QUICK: dict[str, Any] = {"shots": None, "epochs": 3, "lr": 0.01, "rep_dim": 8}
UNFITTED = "not fitted yet: call fit first, or load an adapter"


@pytest.fixture
def classifier(backbone: CLIP) -> FewShotClassifier:
    return FewShotClassifier("mmrl", backbone, **QUICK)


@pytest.fixture
def images(pairs: Pairs) -> list[Any]:
    return [image for image, _ in pairs]


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGINT in the fourth training step."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    losses, steps = MMRL.loss, iter(range(100))

    def loss(*arguments: Any) -> Any:
        if next(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return losses(*arguments)

    monkeypatch.setattr(MMRL, "loss", loss)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_first_fit_leaves_it_not_fitted(
    classifier: FewShotClassifier, pairs: Pairs, images: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(pairs)
    for ask in (
        lambda: classifier.predict(images),
        lambda: classifier.predict_proba(images),
        lambda: classifier.score(pairs),
        lambda: classifier.save(tmp_path / "a"),
        lambda: classifier.add_classes(["teal"]),
        lambda: classifier.push_to_hub("me/nothing"),
        lambda: classifier.classes_,
    ):
        with pytest.raises(NotFittedError, match=UNFITTED):
            ask()
    assert not (tmp_path / "a").exists()
    assert classifier.fit(pairs).predict(images).shape == (12,)  # and then it can be fitted


def test_an_interrupted_refit_leaves_the_old_model(
    classifier: FewShotClassifier, pairs: Pairs, images: list[Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = classifier.fit(pairs).predict_proba(images)
    old = classifier.adapter_
    request.getfixturevalue("ctrl_c")
    with pytest.raises(KeyboardInterrupt):
        classifier.set_params(seed=7).fit([(image, f"a {name} thing") for image, name in pairs])
    assert classifier.adapter_ is old
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    np.testing.assert_array_equal(classifier.predict_proba(images), before)
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=classifier.backbone)
    np.testing.assert_array_equal(again.predict_proba(images), before)


def damaged() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(file, "PNG")
    return file.getvalue()[:50]


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_refit_that_meets_a_damaged_image_keeps_the_good_model(
    classifier: FewShotClassifier, pairs: Pairs, images: list[Any], asked_before: bool
) -> None:
    """Also what is kept of the old model's classes answers, not that of the one that failed."""
    classifier.fit(pairs)
    before = FewShotClassifier.of(classifier.adapter_).predict_proba(images, ["red", "blue"])
    if asked_before:
        np.testing.assert_array_equal(classifier.predict_proba(images, ["red", "blue"]), before)
    bad = [*((image, name) for image, name in pairs if name != "red"), *[(damaged(), "red")] * 4]
    with pytest.raises(DataError, match="truncated|can't be read|damaged"):
        classifier.set_params(seed=9).fit(bad)
    np.testing.assert_array_equal(classifier.predict_proba(images, ["red", "blue"]), before)
    assert classifier.predict_proba(images).shape == (12, 3)


def test_class_features_are_those_of_the_last_fit(
    classifier: FewShotClassifier, pairs: Pairs, images: list[Any]
) -> None:
    classifier.fit(pairs).predict_proba(images)
    other = [(image, {"red": "green", "green": "red"}.get(name, name)) for image, name in pairs]
    again = classifier.set_params(seed=2).fit(other).predict_proba(images)
    alone = FewShotClassifier("mmrl", classifier.backbone, **QUICK, seed=2).fit(other).predict_proba(images)
    np.testing.assert_array_equal(again, alone)


@pytest.mark.parametrize("changed", [{"method": "zero-shot", "rep_dim": None}, {"rep_dim": 16}, {"template": "pet"}])
def test_save_writes_what_was_fitted(
    backbone: CLIP, pairs: Pairs, images: list[Any], tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Whatever the next fit shall do."""
    settings: dict[str, Any] = {} if "method" in changed else {"rep_dim": 8}
    classifier = FewShotClassifier("mmrl", backbone, shots=None, epochs=1, **settings).fit(pairs)
    before = classifier.predict_proba(images)
    classifier.set_params(**{name: value for name, value in changed.items() if value is not None})
    np.testing.assert_array_equal(classifier.predict_proba(images), before)
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    assert again.method == "mmrl"
    assert again.get_params()["rep_dim"] == settings.get("rep_dim", 512)
    np.testing.assert_array_equal(again.predict_proba(images), before)
    assert classifier.fit(pairs).adapter_.method.name == changed.get("method", "mmrl")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epoch": 3}, r"mmrl has no setting 'epoch' \(did you mean 'epochs'\?\)"),
        ({"alpha": 0.2, "epochs": 0}, "epochs is 0"),
        ({"shots": 2, "template": "cat", "alpha": 0.2}, "hold"),
        ({"method": "coop", "alpha": 0.2}, "coop has no setting 'rep_dim'"),
        ({"alpha": 0.2, "shots": "three"}, "shots is 'three', but it must be a whole number or None"),
        ({"verbose": True, "backbone": 3}, "backbone is 3"),
        ({"verbose": True, "class_names": "cat"}, "class_names is 'cat'"),
        ({"device": 0, "alpha": 0.2}, "device is 0, but it must be text or None"),
    ],
)
def test_a_refused_set_params_changes_nothing(
    classifier: FewShotClassifier, pairs: Pairs, changes: dict[str, Any], says: str
) -> None:
    before = classifier.get_params()
    with pytest.raises((SettingsError, PromptError), match=says):
        classifier.set_params(**changes)
    assert classifier.get_params() == before
    assert classifier.set_params(alpha=0.4).fit(pairs).adapter_.method.settings.alpha == 0.4


def test_with_settings_leaves_the_original(classifier: FewShotClassifier, pairs: Pairs, images: list[Any]) -> None:
    before = classifier.fit(pairs).predict_proba(images)
    other = classifier.adapter_.with_settings(alpha=0.1)
    assert np.abs(other.scores(images).softmax(-1).numpy() - before).max() > 1e-4
    other.add_classes(["teal"])
    np.testing.assert_array_equal(classifier.predict_proba(images), before)
    assert classifier.adapter_.method.settings.alpha == 0.7
    for wrong in ({"rep_dim": 4}, {"alpha": 2}, {"alfa": 0.1}):
        with pytest.raises(SettingsError):
            classifier.adapter_.with_settings(**wrong)


def test_failed_add_classes_add_none(classifier: FewShotClassifier, pairs: Pairs, images: list[Any]) -> None:
    before = classifier.fit(pairs).predict_proba(images)
    wrong: list[Any] = [["teal", "red"], ["teal", ""], ["teal", "x" * 290], ["teal", "Teal"], ["teal", 3]]
    for names in wrong:
        with pytest.raises((PromptError, DataError)):
            classifier.add_classes(names)
        assert classifier.classes_.tolist() == ["blue", "green", "red"]
        np.testing.assert_array_equal(classifier.predict_proba(images), before)


def test_settings_are_attributes(classifier: FewShotClassifier, pairs: Pairs) -> None:
    """As of any estimator: what is assigned counts, and is checked by the next fit."""
    assert classifier.rep_dim == 8  # type: ignore[attr-defined]
    classifier.alpha = 0.4  # type: ignore[attr-defined]
    assert classifier.get_params()["alpha"] == 0.4
    assert "alpha=0.4" in repr(classifier)
    fitted = classifier.fit(pairs).adapter_
    assert fitted.method.settings.alpha == 0.4
    for name, value in (("alpha", 3), ("alfa", 0.3), ("shots", "2"), ("backbone", 3), ("method", "mmlr")):
        wrong = FewShotClassifier.of(fitted)
        setattr(wrong, name, value)
        with pytest.raises(SettingsError, match=name if name != "method" else "mmlr"):
            wrong.fit(pairs)
        assert wrong.adapter_ is fitted


def test_an_adapter_alone(classifier: FewShotClassifier, pairs: Pairs, images: list[Any], tmp_path: Path) -> None:
    numbers = {"blue": 2, "green": 10, "red": 30}
    classifier.fit([(image, numbers[name]) for image, name in pairs]).save(tmp_path / "a")
    state = torch.get_rng_state()
    adapter = Adapter.load(tmp_path / "a", backbone=classifier.backbone)
    other = adapter.with_settings(alpha=0.2)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers
    # A template is a preset or a sentence with a place, here too.
    expected = adapter.scores(images, template="a photo of a {}, a type of pet.")
    torch.testing.assert_close(adapter.scores(images, template="pet"), expected)
    with pytest.raises(PromptError, match="should hold {} once"):
        adapter.scores(images, template="no place")
    assert adapter.scores(images, "teal").shape == (12, 1)  # one name is not its letters
    # That equal names were allowed once does not allow them later.
    assert adapter.scores(images, ["a", "a"], repeats=True).shape == (12, 2)
    with pytest.raises(PromptError, match="same prompt"):
        adapter.scores(images, ["a", "a"])
    for labels in ([5], [5, 5], [5, 30]):
        with pytest.raises((DataError, PromptError), match="label"):
            other.add_classes(["teal", "pink"], labels)
        assert (other.classes, other.numbers) == (["2", "10", "30"], [2, 10, 30])
    assert other.add_classes(["teal", "pink"], [5, 7]).numbers == [2, 10, 30, 5, 7]


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_numbers_of_numpy_are_saved(backbone: CLIP, pairs: Pairs, tmp_path: Path, kind: Any) -> None:
    """As a grid over `np.arange` gives them."""
    made: dict[str, Any] = {"shots": kind(3), "seed": kind(2), "epochs": kind(1), "rep_dim": kind(8)}
    labels = np.repeat([2, 10, 30], 4)
    classifier = FewShotClassifier("mmrl", backbone, **made).fit([image for image, _ in pairs], labels)
    classifier.adapter_.add_classes(["teal"], [kind(40)])
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    assert again.shots == 3
    assert again.classes_.tolist() == [2, 10, 30, 40]
