"""What scikit-learn's tools do with a classifier: each is used for real, on pictures and a tiny CLIP."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bare import run
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.errors import FewclipError, SettingsError
from fewclip.errors import NotFittedError as OurNotFittedError

QUICK: dict[str, Any] = {"shots": None, "epochs": 6, "lr": 0.01, "rep_dim": 8}
COLOURS = ["blue", "green", "red"]


@pytest.fixture
def images(pairs: list[tuple[Image.Image, str]]) -> list[Image.Image]:
    return [image for image, _ in pairs]


@pytest.fixture
def names(pairs: list[tuple[Image.Image, str]]) -> np.ndarray:
    return np.array([name for _, name in pairs])


@pytest.fixture
def classifier(backbone: CLIP) -> FewShotClassifier:
    return FewShotClassifier("mmrl", backbone, **QUICK)


NUMBERS = np.repeat([10, 2, 30], 4)
"""Labels that are no places of classes, and whose order as text is another."""


def test_cross_validation_counts_what_is_right(
    classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray
) -> None:
    for labels in (names, NUMBERS):
        plain = cross_val_score(classifier, images, labels, cv=2)
        assert plain.shape == (2,)
        assert plain.min() > 0.4
        np.testing.assert_allclose(cross_val_score(classifier, images, labels, cv=2, scoring="accuracy"), plain)
        predicted = cross_val_predict(classifier, images, labels, cv=2)
        assert accuracy_score(labels, predicted) == pytest.approx(plain.mean())
    assert not hasattr(classifier, "adapter_")


def test_cross_val_predict_gives_probabilities(
    classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray
) -> None:
    """scikit-learn numbers the labels for that; class_names says what the numbers are called."""
    proba = cross_val_predict(classifier, images, names, cv=2, method="predict_proba")
    assert proba.shape == (12, 3)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    classifier.set_params(class_names=COLOURS)
    named = cross_val_predict(classifier, images, names, cv=2, method="predict_proba")
    by_text = cross_val_predict(classifier, images, names, cv=2)
    assert [COLOURS[i] for i in named.argmax(1)] == list(by_text)
    assert np.abs(named - proba).max() > 1e-3


def test_grid_search(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    grid = {"alpha": [0.3, 0.7], "epochs": np.array([1, 6])}
    search = GridSearchCV(classifier, grid, cv=2).fit(images, names)
    assert search.best_estimator_.adapter_.training.settings["epochs"] == search.best_params_["epochs"]
    assert search.best_estimator_.adapter_.method.settings.alpha == search.best_params_["alpha"]
    assert list(search.classes_) == COLOURS
    methods = GridSearchCV(classifier.set_params(rep_dim=8), {"method": ["mmrl", "mmrlpp"]}, cv=2).fit(images, names)
    assert methods.best_params_["method"] in ("mmrl", "mmrlpp")


@pytest.mark.slow
def test_grid_search_in_two_processes(backbone_file: Path, images: list[Image.Image], names: np.ndarray) -> None:
    for backbone in (str(backbone_file), CLIP.from_pretrained(str(backbone_file))):
        one, two = (
            GridSearchCV(FewShotClassifier("mmrl", backbone, **QUICK), {"alpha": [0.3, 0.7]}, cv=2, n_jobs=jobs)
            for jobs in (1, 2)
        )
        expected = one.fit(images, names).cv_results_["mean_test_score"]
        np.testing.assert_allclose(two.fit(images, names).cv_results_["mean_test_score"], expected)


def test_pipeline(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    turned = FunctionTransformer(lambda images: [image.rotate(180) for image in images])
    pipeline = make_pipeline(turned, classifier).fit(images, names)
    by_hand = clone(classifier).fit([image.rotate(180) for image in images], names)
    np.testing.assert_array_equal(pipeline.predict(images), by_hand.predict([image.rotate(180) for image in images]))
    assert pipeline.set_params(fewshotclassifier__alpha=0.2).get_params()["fewshotclassifier__alpha"] == 0.2
    assert pipeline.score(images, names) > 0.6


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_voting(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray, voting: str) -> None:
    other = FewShotClassifier("linear-probe", classifier.backbone, shots=None)
    both = [("mmrl", classifier.set_params(class_names=COLOURS)), ("probe", other)]
    vote = VotingClassifier(both, voting=voting).fit(images, names)
    assert vote.score(images, names) > 0.6
    if voting == "soft":  # the classifiers were fitted with the numbers of the names
        each = [model.predict_proba(images) for model in vote.estimators_]
        np.testing.assert_allclose(vote.predict_proba(images), np.mean(each, 0), rtol=1e-5)
        np.testing.assert_allclose(each[0], clone(classifier).fit(images, names).predict_proba(images), rtol=1e-4)


def test_calibration(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(images, names)
    assert list(calibrated.classes_) == COLOURS
    np.testing.assert_allclose(calibrated.predict_proba(images).sum(1), 1, rtol=1e-5)
    assert set(calibrated.predict(images)) <= set(COLOURS)


def test_it_is_fitted_or_not(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    assert is_classifier(classifier)
    assert not hasattr(classifier, "classes_")
    for ask in (check_is_fitted, lambda c: c.predict(images), lambda c: c.classes_, lambda c: c.save("nowhere")):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            ask(classifier)
    for kind in (OurNotFittedError, FewclipError, ValueError, AttributeError):
        with pytest.raises(kind, match=r"^This classifier is not fitted yet: call fit first, or load an adapter\.$"):
            classifier.predict(images)
    error = pickle.loads(pickle.dumps(OurNotFittedError("once more")))  # as a worker sends it
    assert isinstance(error, NotFittedError)
    assert str(error) == "once more"
    check_is_fitted(classifier.fit(images, names))


def test_nothing_of_ours_imports_scikit_learn() -> None:
    run(
        "import sys\nfrom fewclip import FewShotClassifier\nfrom fewclip.errors import FewclipError\n"
        "try:\n    FewShotClassifier('mmrl').predict([])\nexcept FewclipError as error:\n"
        "    assert type(error).__name__ == 'NotFittedError'\nelse:\n    raise AssertionError\n"
        "assert 'sklearn' not in sys.modules"
    )


def test_without_scikit_learn_the_page_shows_the_repr(monkeypatch: pytest.MonkeyPatch, backbone: CLIP) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.utils", None)
    assert FewShotClassifier("mmrl", backbone)._repr_html_() is None


def test_html(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    for part in (classifier, make_pipeline(FunctionTransformer(), classifier)):
        page = str(part._repr_html_())
        assert "FewShotClassifier" in page
        assert "Not fitted" in page
    assert "Not fitted" not in str(classifier.fit(images, names)._repr_html_())


def test_a_clone_has_the_arguments_and_nothing_learnt(
    classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray
) -> None:
    copy = clone(classifier.fit(images, names))
    assert copy.get_params() == classifier.get_params()
    assert copy.backbone is classifier.backbone  # it is frozen, so it is shared
    assert not hasattr(copy, "adapter_")
    assert clone(FewShotClassifier("mmrl", epochs=3)).set_params(method="coop").get_params()["lr"] == 2e-3
    with pytest.raises(SettingsError, match="coop has no setting 'rep_dim'"):
        copy.set_params(method="coop")


def test_get_params_lists_all_settings(backbone: CLIP) -> None:
    params = FewShotClassifier("mmrlpp", backbone, beta=0.5).get_params()
    assert (params["beta"], params["alpha"], params["epochs"], params["optimizer"]) == (0.5, 0.7, 10, "adamw")
    assert FewShotClassifier("coop", backbone).get_params()["optimizer"] == "sgd"  # as published
    assert FewShotClassifier(**params).get_params() == params


@pytest.mark.parametrize("kind", ["array", "tensor", "paths", "array of paths"])
def test_images_of_each_kind(
    classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray, tmp_path: Path, kind: str
) -> None:
    arrays = np.stack([np.asarray(image) for image in images])
    given: Any = arrays
    if kind == "tensor":
        given = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    if "paths" in kind:
        given = [str(tmp_path / f"{number}.png") for number in range(len(images))]
        for path, image in zip(given, images, strict=True):
            image.save(path)
        given = np.array(given) if "array" in kind else given
    expected = clone(classifier).fit(images, names).predict_proba(images)
    np.testing.assert_allclose(classifier.fit(given, names).predict_proba(given), expected, rtol=1e-3)
    assert cross_val_score(classifier, given, names, cv=2).shape == (2,)


def test_sample_weight_is_refused(classifier: FewShotClassifier, images: list[Image.Image], names: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="sample_weight is not supported: every image counts the same"):
        classifier.fit(images, names, sample_weight=np.ones(12))
    classifier.fit(images, names, sample_weight=None)
    with pytest.raises(SettingsError, match="sample_weight is not supported"):
        classifier.score(images, names, sample_weight=np.ones(12))
