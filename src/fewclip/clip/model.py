"""CLIP's two towers, frozen, and runnable from any layer to any layer.

Parameter names are those of OpenAI's state dict, so loading one needs no table. Three things differ from the usual
way of writing CLIP, all of them exact (docs/equations.md, section 7):

* a tower takes an *edit*, a function called with (layer, tokens) before every layer, so that a few-shot method can
  insert or change tokens without a copy of the towers, and a *beside*, a function called with (layer, place, input)
  whose result is added to what the frozen weights of that place make of the same input (adapters, LoRA);
* what comes before the first edit is a *stem*: computed once, shared by the tuned and the frozen pass;
* the text tower computes what all prompts share at their start once (clip/prompts.py), and both towers compute the
  last layer only at the tokens that are read.

Layers are numbered from 1, as in the papers. Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", ICML 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.config import Config
from fewclip.clip.image_tower import ImageTower
from fewclip.clip.layers import Block
from fewclip.clip.preprocess import Preprocess
from fewclip.clip.prompts import Prompts
from fewclip.clip.text_tower import TextTower
from fewclip.clip.tokens import Stem

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from fewclip.clip.tokenizer import Tokenizer


class CLIP(TextTower):
    """CLIP, laid out as OpenAI's state dict: the text tower is the root, the image tower is `visual`.

    `preprocess` and `tokenizer` come with a checkpoint (`from_pretrained`); a CLIP made from a bare `Config` preprocesses
    as OpenAI's do and has no tokenizer. `name` is what was loaded.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.visual = ImageTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.name = ""
        self.tokenizer: Tokenizer | None = None
        self.preprocess = Preprocess(config.image_size)
        self._initialise()

    def _initialise(self) -> None:
        """The initial values of the CLIP paper's code, for training from nothing."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for transformer in (self.transformer, self.visual.transformer):
            for block in transformer.resblocks:
                assert isinstance(block, Block)
                width = block.attn.out_proj.in_features
                deep = width**-0.5 * (2 * len(transformer)) ** -0.5
                nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=deep)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=deep)
                nn.init.zeros_(block.attn.out_proj.bias)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, *, device: str | torch.device = "cpu", quick_gelu: bool | None = None
    ) -> CLIP:
        """A frozen CLIP by embedded name, hub name, or local file or folder. See `fewclip.clip.load.load`.

        `quick_gelu` states the activation where a file doesn't (None: as the checkpoint states it).

        Raises:
            fewclip.errors.BackboneError: nothing is found there, or it is not a CLIP with a vision transformer.
        """
        from fewclip.clip.load import load

        return load(name_or_path, quick_gelu=quick_gelu).to(device)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.positional_embedding.device

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features of normalised pixels, not L2-normalised."""
        return self.visual(images)

    def encode_text(self, tokens: Int[Tensor, "classes length"] | Prompts) -> Float[Tensor, "classes dim"]:
        """Text features, not L2-normalised. The end-of-text token is the largest id of a row."""
        prompts = tokens if isinstance(tokens, Prompts) else Prompts.from_tokens(tokens)
        return self.text_features(Stem(1, self.embed_prompts(prompts)))
