"""CLIP's text transformer over prompts with a shared prefix, from any layer to any layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.config import Config
from fewclip.clip.groups import TextGroups, layer_bytes, pieces
from fewclip.clip.layers import Transformer
from fewclip.clip.tokens import Beside, Stem, TextEdit, TextTokens

if TYPE_CHECKING:
    from jaxtyping import Float

    from fewclip.clip.prompts import Prompts


class TextTower(nn.Module):
    """CLIP's causal text transformer over prompts with a shared prefix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, width))
        self.transformer = Transformer(width, config.text_layers, config.text_heads, config.quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))

    def embed_prompts(self, prompts: Prompts) -> TextTokens:
        """Token and position embeddings of prompts, split into prefix and suffixes."""
        ids = prompts.tokens.to(self.positional_embedding.device)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return TextTokens(x[0, : prompts.prefix], x[:, prompts.prefix :], prompts.eot.to(ids.device) - prompts.prefix)

    @torch.no_grad()
    def text_stem(self, prompts: Prompts, layer: int = 1) -> Stem[TextTokens]:
        """The tokens that enter `layer`: a constant of the prompts, to be computed once per run."""
        tokens = self.embed_prompts(prompts)
        for number in range(1, layer):
            tokens = self.transformer.layer(number).branch(tokens)
        return Stem(layer, tokens)

    def text_groups(self, prompts: Prompts, layer: int = 1) -> TextGroups[Stem[TextTokens]]:
        """The same in groups of like length (clip/groups.py): for edits that treat every class alike."""
        groups = pieces(prompts, self.positional_embedding.device)
        return TextGroups([self.text_stem(some, layer) for some, _ in groups], [rows for _, rows in groups])

    def text_features(
        self,
        stem: Stem[TextTokens] | TextGroups[Stem[TextTokens]],
        edit: TextEdit | None = None,
        beside: Beside | None = None,
    ) -> Float[Tensor, "*copies classes dim"]:
        """From a stem to the feature of each prompt's EOT token, not normalised."""
        if not isinstance(stem, Stem):
            return stem.features(lambda some, _: self.text_features(some, edit, beside), self.kept)
        tokens, last = stem.tokens, len(self.transformer)
        for number in range(stem.layer, last + 1):
            if edit is not None:
                tokens = edit(number, tokens)
            extra = None if beside is None else partial(beside, number)
            if number < last:
                tokens = self.transformer.layer(number).branch(tokens, extra)
        return self.ln_final(self.transformer.layer(last).branch_last(tokens, extra)) @ self.text_projection

    def kept(self, stem: Stem[TextTokens]) -> int:
        """Bytes that `text_features` of a stem keeps for the backward pass."""
        return (len(self.transformer) - stem.layer + 1) * layer_bytes(stem.tokens)

    @torch.no_grad()
    def text_stages(self, prompts: Prompts) -> TextGroups[list[TextTokens]]:
        """The tokens that enter each layer: what `text_read_only` reads, a constant of the prompts."""

        def stages(some: Prompts) -> list[TextTokens]:
            entering = [self.embed_prompts(some)]
            for number in range(1, len(self.transformer)):
                entering.append(self.transformer.layer(number).branch(entering[-1]))
            return entering

        groups = pieces(prompts, self.positional_embedding.device)
        return TextGroups([stages(some) for some, _ in groups], [rows for _, rows in groups])

    def text_read_only(
        self, stages: TextGroups[list[TextTokens]], askers: Float[Tensor, "k width"]
    ) -> Float[Tensor, "classes k dim"]:
        """Features of tokens that read each prompt up to its EOT at every layer and are read by none, not normalised."""

        def run(stages: list[TextTokens], rows: Tensor) -> Tensor:
            asking = askers.expand(rows.shape[0], -1, -1)
            for number, tokens in enumerate(stages, start=1):
                asking = self.transformer.layer(number).branch_ask(asking, tokens)
            return self.ln_final(asking) @ self.text_projection

        def kept(stages: list[TextTokens]) -> int:
            return sum(layer_bytes(tokens, computed=len(askers)) for tokens in stages)

        return stages.features(run, kept, dim=0)
