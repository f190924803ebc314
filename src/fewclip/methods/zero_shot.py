"""Zero-shot CLIP: every class name becomes a sentence, or several, and their features a linear classifier.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewclip.clip.templates import SELECTED_TEMPLATES
from fewclip.methods import frozen
from fewclip.methods.classes import ClassTexts
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Settings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings(Settings):
    ensemble: bool = False
    """Average the features of seven further sentences ("itap of a {}.", …) with the template's."""


class ZeroShot(CosineMethod):
    name = "zero-shot"
    title = "Zero-shot CLIP"
    paper = "Radford et al., ICML 2021"
    trained = "nothing"
    parameters_b16 = "0"
    new_classes = "the same as of any class"
    Settings = ZeroShotSettings
    settings: ZeroShotSettings

    def read(self, texts: ClassTexts) -> Float[Tensor, "classes dim"]:
        """Unit text features w (C, d); of several sentences the normalised mean of their unit features."""
        extra = SELECTED_TEMPLATES if self.settings.ensemble else ()
        return frozen.ensemble(self.clip, map(texts.prompts, dict.fromkeys((*extra, texts.template))))
