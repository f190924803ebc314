"""Settings are checked when they are given: names, types, choices, ranges, each in one sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import pytest
import torch
from commands import Capture

from fewclip import FewShotClassifier
from fewclip.cli import main
from fewclip.errors import SettingsError
from fewclip.methods import METHODS, make_settings
from fewclip.methods.settings import Count, Range, Share, describe, fits
from fewclip.training.processes import find_device
from fewclip.training.settings import TrainSettings, split_settings

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mmrl", {"new_scores": "anything"}, "new_scores is 'anything', but it must be one of class, both."),
    (
        "mmrl",
        {"optimizer": "adamx"},
        "optimizer is 'adamx', but it must be one of adamw, adam, sgd (did you mean 'adam",
    ),
    (
        "mmrl",
        {"precision": "fp8"},
        "precision is 'fp8', but it must be one of auto, fp32, bf16, fp16.",
    ),
    ("mmrl", {"rep_tokens": "five"}, "rep_tokens is 'five', but it must be a whole number."),
    ("mmrl", {"regulariser": "cosin"}, "must be one of cosine, l1, mse (did you mean 'cosine'?)."),
    ("mmrl", {"alpha": 1.5}, "alpha is 1.5, but it must be between 0 and 1."),
    ("mmrl", {"alpha": float("nan")}, "alpha is nan, but it must be a finite number."),
    ("mmrl", {"alpha": True}, "alpha is True, but it must be a finite number."),
    ("mmrl", {"rep_tokens": 5.0}, "rep_tokens is 5.0, but it must be a whole number."),
    ("mmrl", {"rep_tokens": 0}, "rep_tokens is 0, but it must be at least 1."),
    ("mmrl", {"image_tokens": 1}, "image_tokens is 1, but it must be True or False."),
    ("mmrl", {"reg_weight": -1}, "reg_weight is -1, but it must be 0 or more."),
    ("mmrl", {"first_layer": 0}, "first_layer is 0, but it must be at least 1."),
    ("mmrl", {"crop_min": 0}, "crop_min is 0, but it must be above 0 and at most 1."),
    ("mmrl", {"momentum": 1.0}, "momentum is 1.0, but it must be 0 or more and below 1."),
    ("mmrl", {"lr": 0.0}, "lr is 0.0, but it must be above 0."),
    ("mmrl", {"epochs": 0}, "epochs is 0, but it must be at least 1"),
    ("mmrl", {"seed": "one"}, "seed is 'one', but it must be a whole number."),
    ("mmrl", {"rep_token": 3}, "mmrl has no setting 'rep_token' (did you mean 'rep_tokens'?): it has rep_tokens,"),
    ("mmrl", {"learning_rate": 3}, "Settings of training: accumulate, batch_size,"),
    ("clip-lora", {"layers": "middle"}, "layers is 'middle', but it must be one of all, bottom, mid"),
    ("clip-lora", {"dropout": 1.0}, "dropout is 1.0, but it must be 0 or more and below 1."),
    ("plot", {"words": "a photo"}, "words is 'a photo', but it must be a tuple, each item text."),
    ("proda", {"context_tokens": 0}, "context_tokens is 0, but it must be at least 1."),
    ("mmlr", {}, "There is no method 'mmlr' (did you mean 'mmrl'?)"),
    ("mmrl", {"seed": 2**63}, f"seed is {2**63}, but it must be between "),
    ("mmrl", {"lr": 1e39}, "lr is 1e+39, but it must be a finite number."),
    # several that don't fit each other
    ("mmrl", {"image_tokens": False, "text_tokens": False}, "image_tokens and text_tokens are both off"),
    ("mmrlpp", {"image_tokens": False, "text_tokens": False}, "image_tokens and text_tokens are both off"),
    ("mmrl", {"space": "text-to-image", "image_tokens": False}, "space 'text-to-image' needs both"),
    ("mmrl", {"space": "text-to-image", "text_tokens": False}, "space 'text-to-image' needs both"),
    ("proda", {"pool": 3}, "prompt_batch is 4, but the pool has only 3 contexts."),
    ("plot", {"words": ()}, "words is empty"),
    ("clip-lora", {"projections": ""}, "projections is '', but it must be letters of qkvo"),
    ("clip-lora", {"projections": "qx"}, "projections is 'qx', but it must be letters of qkvo"),
    ("clip-lora", {"projections": "qq"}, "projections is 'qq', but it must be letters of qkvo, each once"),
    ("clip-lora", {"layers": ()}, "layers is (), but layers are counted from 1"),
    ("clip-lora", {"layers": [2, 0]}, "layers is (2, 0), but layers are counted from 1"),
    ("mma", {"first_layer": 0}, "first_layer is 0, but layers are counted from 1"),
]


@pytest.mark.parametrize(("method", "values", "says"), WRONG)
def test_from_python(method: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)) as error:
        FewShotClassifier(method, **values)
    assert isinstance(error.value, ValueError)
    with pytest.raises(SettingsError, match=re.escape(says)):
        split_settings(method, values)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--new-scores", "anything"], "anything"),
        (["--optimizer", "adamx"], "adamx"),
        (["--precision", "fp8"], "fp8"),
        (["--rep-tokens", "five"], "five"),
        (["--regulariser", "cosin"], "cosin"),
        (["--alpha", "1.5"], "alpha is 1.5, but it must be between 0 and 1."),
        (["--rep-tokens", "0"], "rep_tokens is 0, but it must be at least 1."),
        (["--epochs", "0"], "epochs is 0, but it must be at least 1"),
        (["--shots", "0"], "shots is 0, but it must be at least 1."),
        (["--method", "mmlr"], "did you mean 'mmrl'?"),
    ],
)
def test_from_the_command_line(option: list[str], says: str, capsys: Capture) -> None:
    """Before any data is read."""
    try:
        status = main(["fit", "no/such/folder", "-o", "out", *option])
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    assert status == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert says in shown
    assert "Traceback" not in shown


def test_numbers_of_numpy_count_as_what_they_hold() -> None:
    settings = make_settings("mmrl", {"alpha": np.float32(0.5), "rep_tokens": np.int64(3), "image_tokens": np.True_})
    assert (settings.alpha, settings.rep_tokens, settings.image_tokens) == (0.5, 3, True)
    assert [type(v) for v in (settings.alpha, settings.rep_tokens, settings.image_tokens)] == [float, int, bool]
    assert make_settings("clip-lora", {"layers": [1, 2]}).layers == (1, 2)
    assert TrainSettings(epochs=np.int64(3)).epochs == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_defaults_and_published_settings_fit(method: str) -> None:
    training, own = split_settings(method, {})
    for part in (training, own):
        assert replace(part) == part  # made anew, so checked anew


@pytest.mark.parametrize("method", METHODS)
def test_each_setting_refuses_another_type(method: str) -> None:
    """Whatever a method's settings are, from the annotations alone."""
    for kind in (METHODS[method].Settings, TrainSettings):
        hints = get_type_hints(kind, include_extras=True)
        for name, hint in hints.items():
            for wrong in (object(), 10**400, float("inf"), {"a": 1}):
                with pytest.raises(SettingsError, match=f"^{name} is .*, but it must be "):
                    split_settings(method, {name: wrong})
            assert describe(hint) != str(hint), name


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, True),
        (1, Count, True),
        (0, Count, True),  # the range is another check
        ("1", Count, False),
        (True, int, False),
        (None, int | None, True),
        ("a", Literal["a", "b"], True),
        (1, Literal["1"], False),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ({"a": 1}, dict[str, Annotated[int, Range(0)]], True),
    ],
)
def test_fits(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) == expected


def test_ranges_in_words() -> None:
    assert [str(r) for r in (Range(0), Range(1), Range(0, above=True), Range(0, 1), Range(0, 1, True), Range(0, 1, False, True))] == [
        "0 or more", "at least 1", "above 0", "between 0 and 1", "above 0 and at most 1", "0 or more and below 1",
    ]  # fmt: skip
    assert get_args(Share)[1:] == (Range(0, 1),)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_there_is_not(device: str, capsys: Capture) -> None:
    with pytest.raises(SettingsError, match=f"There is no device '{device}' .*: use cpu, cuda, cuda:1"):
        find_device(device)
    assert main(["fit", "icons", "-o", "out", "--device", device]) == 2
    assert f"fewclip fit: There is no device '{device}'" in capsys.readouterr().err


def test_devices_that_there_are() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(torch.device("cpu")).type == "cpu"
    assert find_device(None).type in ("cpu", "cuda")
