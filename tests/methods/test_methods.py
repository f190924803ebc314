"""Every method: fit, save, load, new classes or their refusal, resume; and what some of them promise besides."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import random_tokens, small_clip

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.errors import DataError, SettingsError, TrainingError
from fewclip.methods import METHODS, find, make_settings
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots
from fewclip.methods.plot import PLOT
from fewclip.methods.proda import ProDA, ProDASettings
from fewclip.training.checkpoint import Checkpoint
from fewclip.training.loop import BatchStep
from fewclip.training.settings import TrainSettings, published_training, split_settings

Pairs = list[tuple[Image.Image, str]]
SMALL: dict[str, dict[str, Any]] = {
    "mmrl": {"rep_dim": 8},
    "mmrlpp": {"rep_dim": 8, "residual_rank": 2, "proj_rank": 2},
    "proda": {"pool": 8, "context_tokens": 4},
    "promptsrc": {"average_mean": 2},
    "rpo": {"prompts": 3},
    "provp": {"prompts": 2},
    "tip-adapter": {"passes": 2},
    "tip-adapter-f": {"passes": 2},
}
TRAINED = [name for name in METHODS if name not in ("zero-shot", "linear-probe", "tip-adapter")]
KINDS = [*((name, {}) for name in METHODS), ("coop", {"class_specific": True}), ("coop", {"position": "front"})]
TWO: dict[str, Any] = {"stage": "two-stage"}
QUICK: dict[str, Any] = {"shots": None, "epochs": 3, "batch_size": 6, "lr": 0.01}


def make(backbone: CLIP, name: str, **settings: Any) -> FewShotClassifier:
    return FewShotClassifier(name, backbone, **(QUICK | SMALL.get(name, {}) | settings))


@pytest.mark.parametrize(("name", "settings"), KINDS, ids=str)
def test_fit_save_load_and_new_classes(
    backbone: CLIP, pairs: Pairs, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    images = [image for image, _ in pairs]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    classifier = make(backbone, name, **settings).fit(pairs)
    for key, value in classifier.adapter_.clip.state_dict().items():
        assert torch.equal(value, before[key]), "the backbone was changed"
    proba = classifier.predict_proba(images)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-4)
    if name in TRAINED:
        assert len(classifier.adapter_.training.history) == 3
    # a part of the classes in another order, scored as before
    scores = classifier.scores(images)
    tolerance = 0.02 if name == "plot" else 1e-3  # PLOT's Sinkhorn stops when the whole batch has settled
    torch.testing.assert_close(
        classifier.scores(images, ["red", "blue"]), scores[:, [2, 0]], rtol=tolerance, atol=tolerance
    )

    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    torch.testing.assert_close(again.scores(images), scores, rtol=0, atol=0)
    for loaded in (classifier, again):
        if loaded.adapter_.takes_new:
            mixed = loaded.scores(images, ["a zebra", "red"])
            assert mixed.shape == (12, 2)
            assert mixed.isfinite().all()
            assert loaded.add_classes(["teal"]).predict_proba(images).shape == (12, 4)
        else:
            for refused in (lambda: loaded.scores(images, ["a zebra", "red"]), lambda: loaded.add_classes(["teal"])):  # noqa: B023
                with pytest.raises(SettingsError, match=f"{name} knows only the classes that it was trained on"):
                    refused()


PLAIN = [(Image.new("RGB", (8, 8)), name) for name in ("blue", "green", "red")]


def zero_shot(classifier: FewShotClassifier, images: Any) -> torch.Tensor:
    scale = classifier.adapter_.clip.logit_scale.exp()
    return FewShotClassifier("zero-shot", classifier.adapter_.clip, shots=None).fit(PLAIN).scores(images) * 100 / scale


class _Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "settings", "kill"),
    [*((n, {}, 3) for n in TRAINED), *(("plot", TWO, kill) for kill in (3, 6, 9))],
    ids=str,
)
def test_resume_ends_where_an_undisturbed_run_does(
    backbone: CLIP,
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    kill: int,
) -> None:
    settings = {"checkpoint_seconds": 0, **settings}
    whole = make(backbone, name, **settings).fit(pairs)
    save, saves = Checkpoint.save, 0

    def save_and_die(self: Checkpoint, *state: Any) -> None:
        nonlocal saves
        save(self, *state)
        saves += 1
        if saves == kill:  # two steps an epoch: in the second, or behind the last of a stage, or in the next stage
            raise _Killed

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    with pytest.raises(_Killed):
        make(backbone, name, **settings).fit(pairs, checkpoint=tmp_path / "run")
    monkeypatch.undo()
    resumed = make(backbone, name, **settings).fit(pairs, checkpoint=tmp_path / "run")
    assert resumed.adapter_.training.history == whole.adapter_.training.history
    for key, value in whole.adapter_.method.state_dict().items():
        other = resumed.adapter_.method.state_dict()[key]
        torch.testing.assert_close(other, value, rtol=0, atol=0, equal_nan=True, msg=key)


def test_plot_trains_the_image_tokens_and_then_both(
    backbone: CLIP, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half of a two-stage run is a "vision" run; the second begins with its tokens, a new schedule and no momentum."""
    vision = make(backbone, "plot", stage="vision").fit(pairs).adapter_.method.state_dict()
    between: dict[str, torch.Tensor] = {}
    momentum: list[int] = []
    begin, update = PLOT.begin_stage, BatchStep.update

    def begin_stage(self: PLOT, stage: int) -> None:
        if stage == 2:
            between.update({key: value.clone() for key, value in self.state_dict().items()})
        begin(self, stage)

    def counted(self: BatchStep, gradients: Any) -> None:
        momentum.append(len(self.trainer.optimizer.state))
        update(self, gradients)

    monkeypatch.setattr(PLOT, "begin_stage", begin_stage)
    monkeypatch.setattr(BatchStep, "update", counted)
    both = make(backbone, "plot", **TWO).fit(pairs)
    for key, value in vision.items():
        torch.testing.assert_close(between[key], value, rtol=0, atol=0)
        assert not torch.equal(both.adapter_.method.state_dict()[key], value)
    rates = [entry["lr"] for entry in both.adapter_.training.history]
    assert len(rates) == 6
    assert rates[:3] == rates[3:]
    assert momentum == [0, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2]  # tensors with momentum before each step


@pytest.mark.parametrize("name", TRAINED)
def test_accumulation_takes_the_same_steps_or_is_refused(backbone: CLIP, pairs: Pairs, name: str) -> None:
    settings: dict[str, Any] = {"dropout": 0.0} if name == "clip-lora" else {}
    if find(name).whole_batches:
        with pytest.raises(SettingsError, match=r"compares the images of a batch .* accumulate 1"):
            make(backbone, name, accumulate=3).fit(pairs)
        return
    whole = make(backbone, name, epochs=2, optimizer="sgd", lr=1e-3, **settings).fit(pairs)
    parts = make(backbone, name, epochs=2, optimizer="sgd", lr=1e-3, accumulate=3, **settings).fit(pairs)
    for key, value in whole.adapter_.method.state_dict().items():
        value, other = value.nan_to_num(), parts.adapter_.method.state_dict()[key].nan_to_num()
        assert float((value - other).float().norm()) <= 1e-3 * max(1.0, float(value.float().norm())), key


def test_published_training_holds_where_the_user_sets_nothing() -> None:
    def settings(name: str, **given: Any) -> TrainSettings:
        return split_settings(name, given)[0]

    assert settings("mmrl") == TrainSettings()
    coop = settings("coop")
    assert (coop.optimizer, coop.lr, coop.epochs, coop.batch_size, coop.crop_min) == ("sgd", 2e-3, 50, 32, 0.08)
    assert settings("coop", epochs=3).epochs == 3
    assert settings("coop", epochs=3).lr == 2e-3
    lora = settings("clip-lora")
    assert lora.with_epochs(shots=16, steps_an_epoch=50).epochs == 160
    assert lora.with_epochs(shots=1, steps_an_epoch=3).epochs == 167
    assert settings("clip-lora", epochs=5).with_epochs(16, 50).epochs == 5
    for name in METHODS:
        TrainSettings(**published_training(name)).check(1)


def test_every_setting_of_a_method_is_its_own() -> None:
    training = {f.name for f in fields(TrainSettings)}
    for name, method in METHODS.items():
        assert not training & {f.name for f in fields(method.Settings)}, name


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("coop", {"context_tokens": 0}, "context_tokens is 0"),
        ("tcp", {"class_layer": 99}, "class_layer is 99"),
        ("tcp", {"context_tokens": 2}, "context_tokens is 2"),
        ("mma", {"first_layer": 5}, "layer 5 to 4"),
        ("maple", {"depth": 0}, "depth is 0"),
        ("clip-lora", {"projections": "x"}, "projections is 'x'"),
        ("clip-lora", {"layers": (9,)}, r"layers is \(9,\)"),
        ("clip-adapter", {"ratio": 2.0}, "ratio is 2.0"),
        ("proda", {"prompt_batch": 99}, "prompt_batch is 99"),
        ("rpo", {"prompts": 0}, "prompts is 0"),
        ("linear-probe", {"c": 0.0}, "c is 0.0"),
        ("tip-adapter", {"passes": 0}, "passes is 0"),
        ("provp", {"keep": 1.5}, "keep is 1.5, but it must be between 0 and 1"),
        ("promptsrc", {"average_std": 0.0}, "average_std is 0.0, but it must be above 0"),
        ("cocoop", {"reduction": 0}, "reduction is 0, but it must be at least 1"),
        ("prograd", {"temperature": 0.0}, "temperature is 0.0"),
        ("kgcoop", {"kg_weight": -1.0}, "kg_weight is -1.0, but it must be 0 or more"),
        ("clip-lora", {"dropout": 1.0}, "dropout is 1.0"),
        ("plot", {"words": ()}, "words is empty"),
    ],
)
def test_refuses_settings_that_make_no_method(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        METHODS[name](small_clip(), make_settings(name, settings))


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "linear-probe"])
def test_validation_images_choose_settings(backbone: CLIP, pairs: Pairs, name: str) -> None:
    few = {"alpha_steps": 3, "beta_steps": 4} if name != "linear-probe" else {}
    plain = make(backbone, name, **few).fit(pairs)
    chosen = make(backbone, name, **few).fit(pairs, val=pairs)
    images = [image for image, _ in pairs]
    assert chosen.scores(images).shape == plain.scores(images).shape
    assert (plain.adapter_.training.val_images, plain.adapter_.training.chosen) == (0, {})
    assert chosen.adapter_.training.val_images == 12
    assert set(chosen.adapter_.training.chosen) == ({"c"} if name == "linear-probe" else {"alpha", "beta"})
    if name != "linear-probe":
        assert plain.adapter_.method.state_dict()["found"].isnan().all()
        assert chosen.adapter_.method.state_dict()["found"].tolist() == [
            chosen.adapter_.training.chosen[k] for k in ("beta", "alpha")
        ]
        torch.testing.assert_close(plain.adapter_.with_settings(alpha=0.0).scores(images), zero_shot(plain, images))


def test_validation_images_are_not_trained_on(backbone: CLIP, photos: Path) -> None:
    model = make(backbone, "linear-probe", shots=3).fit(photos, val=photos)
    assert model.adapter_.training.val_images == 24 - 9
    with pytest.raises(DataError, match="no image of the classes blue, green, red that is not trained on"):
        make(backbone, "linear-probe").fit(photos, val=photos)


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].chooses])
def test_validation_images_without_a_use_are_refused(backbone: CLIP, pairs: Pairs, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} does not use validation images.*linear-probe \(C\)"):
        make(backbone, name).fit(pairs, val=pairs)


def test_a_probe_of_two_classes(backbone: CLIP, pairs: Pairs) -> None:
    two = [pair for pair in pairs if pair[1] != "red"]
    classifier = make(backbone, "linear-probe").fit(two)
    assert classifier.score(two) >= 0.9
    assert classifier.adapter_.method.state_dict()["weight"].shape == (2, backbone.config.embed_dim)


def test_a_diverging_run_says_so(backbone: CLIP, pairs: Pairs) -> None:
    with pytest.raises(TrainingError, match="Lower lr"):
        make(backbone, "provp", lr=1e30, epochs=4, warmup_epochs=0).fit(pairs)


@pytest.mark.parametrize(("template", "words"), [("a texture of {}.", 3), ("{}", 0), ("so " * 20 + "{}", 16)])
def test_prograd_starts_from_the_template_of_its_prompts(backbone: CLIP, template: str, words: int) -> None:
    texts = ClassTexts(["cat", "red dog"], template, backbone.tokenizer)
    method = find("prograd")(backbone)
    method.prepare(texts)
    context = method.get_parameter("context")
    assert context[16 - words :].ne(0).any(1).all()
    assert context[: 16 - words].eq(0).all() == bool(words) or words == 16
    if words == 3:
        torch.testing.assert_close(context[13:], backbone.token_embedding(texts.prompts(template).tokens[0, 1:4]))


def test_proda_uses_the_whole_pool_before_it_draws_anew() -> None:
    method = ProDA(small_clip(), ProDASettings(pool=8, prompt_batch=2))
    drawn: list[list[int]] = []

    class Step:
        number, seed, lr = 0, 1, 0.1

        def gradients(self, *_: Any) -> list[tuple[torch.Tensor, list[None]]]:
            drawn.append(method.batch)
            return [(torch.zeros(()), [])]

        def update(self, *_: Any) -> None: ...

    for Step.number in range(8):
        method.step(Step())  # type: ignore[arg-type]
    for turn in (drawn[:4], drawn[4:]):
        assert sorted(i for group in turn for i in group) == list(range(8))
    assert drawn[:4] != drawn[4:]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("copies", [(), (3,)])
def test_slots_against_prompts_put_together_by_hand(position: Any, own: bool, copies: tuple[int, ...]) -> None:
    clip, count, classes = small_clip(), 3, 4
    tokens = random_tokens(classes, count, 0)
    names = tokens.argmax(1) - 1 - count - 1  # between the context and the common id before EOT
    prompts = Prompts.from_tokens(tokens)
    context = torch.randn(*copies, *([classes] if own else []), count, clip.config.text_width)
    features = clip.text_features(Slots(clip, prompts, count, position, own, names=names).fill(context))
    assert features.shape == (*copies, classes, clip.config.embed_dim)
    words = clip.token_embedding(tokens)
    for copy in np.ndindex(*copies):
        for c in range(classes):
            mine = context[copy][c] if own else context[copy]
            name, rest = words[c, 1 + count : 1 + count + names[c]], words[c, 1 + count + names[c] :]
            cut = {"end": count, "middle": count // 2, "front": 0}[position]
            x = torch.cat([words[c, :1], mine[:cut], name, mine[cut:], rest]) + clip.positional_embedding
            for block in clip.transformer.resblocks:
                x = block(x, causal=True)
            expected = clip.ln_final(x[tokens[c].argmax()]) @ clip.text_projection
            torch.testing.assert_close(features[(*copy, c)], expected, rtol=1e-4, atol=1e-4)
