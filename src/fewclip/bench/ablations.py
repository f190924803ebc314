"""The ablations of the MMRL paper, by name: what varies, and the settings of each variant."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fewclip.errors import SettingsError
from fewclip.methods import find

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "w/o L": {"text_tokens": False},
    "w/o V": {"image_tokens": False},
    "w/o DS1": {"seen_scores": "class"},
    "w/o DS2": {"new_scores": "both"},
    "w/o RS": {"space": "independent"},
    "MMRL-dagger": {"space": "text-to-image"},
}
"""Table 4, left: without tokens in the text or the image tower, without decoupled scores, without the shared space, and
with image tokens made from the text tokens."""

SWEPT: dict[str, tuple[str, tuple[Any, ...]]] = {
    "rep-dim": ("rep_dim", (32, 128, 256, 512, 1024, 2048)),
    "layer": ("first_layer", tuple(range(1, 13))),
    "tokens": ("rep_tokens", (1, 2, 3, 4, 5, 6, 7, 8)),
    "alpha": ("alpha", (0.0, 0.3, 0.5, 0.7, 1.0)),
    "lambda": ("reg_weight", (0.0, 0.01, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
    "regulariser": ("regulariser", ("cosine", "l1", "mse")),
}
"""Table 4, right; Figure 5; Tables 5, 8 and 9: one setting and its values."""

ABLATIONS = ("variants", *SWEPT)


def variants(name: str, method: str, depth: int) -> dict[str, dict[str, Any]]:
    """Each variant of an ablation and its settings. `depth`: layers of the shallower tower, which bound "layer".

    Raises:
        SettingsError: an unknown ablation, or one that varies settings that the method lacks.
    """
    if name not in ABLATIONS:
        raise SettingsError(f"There is no ablation {name!r}: choose one of {', '.join(ABLATIONS)}.")
    if name == "variants":
        settings_of = VARIANTS
    else:
        setting, values = SWEPT[name]
        settings_of = {str(v): {setting: v} for v in values if name != "layer" or v <= depth}
    known = {f.name for f in fields(find(method).Settings)}
    lacking = sorted({key for settings in settings_of.values() for key in settings} - known)
    if lacking:
        raise SettingsError(
            f"The ablation {name} varies {', '.join(lacking)}, which {method} doesn't have: leave it out of --methods "
            "(mmrl and mmrlpp have it)."
        )
    return settings_of
