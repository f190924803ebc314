"""MMA: small bottlenecks beside the upper layers of both towers, with a middle that the two towers share.

Yang, Zhang, Wang and Xie, "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024, eq. 4-7: a layer's output
gains α·Up(relu(Shared(relu(Down(u))))), u the layer's normed input. As in the published code the adapters' gradients are
those of α = 1, while what flows on to lower layers is the true gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.tokens import Beside, Place, Stem, TextTokens
from fewclip.errors import SettingsError
from fewclip.methods.base import Images, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Positive, Settings

if TYPE_CHECKING:
    from jaxtyping import Float

    from fewclip.clip.groups import TextGroups


@dataclass(frozen=True, kw_only=True)
class MMASettings(Settings):
    first_layer: int | None = None
    """First layer with an adapter, counted from 1, or from the end if negative: -4 is 9 of 12, or the first where a tower
    has fewer. By default after a third of the tower (5 of 12)."""
    last_layer: Count | None = None
    """Last layer with an adapter. By default the tower's last."""
    bottleneck: Count = 32
    """r: width of the bottleneck."""
    scale: Positive = 0.001
    """α: what the adapters' output is multiplied by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_layer == 0:
            raise SettingsError("first_layer is 0, but layers are counted from 1, or from the end if negative.")


class Ends(nn.Module):
    """Way in and way out of a tower's bottlenecks, one row a layer: (n, r, width), (n, width, r) and biases."""

    def __init__(self, layers: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.down_bias = maps(layers, bottleneck, width)
        self.up, self.up_bias = maps(layers, width, bottleneck)


class MMA(CosineMethod):
    name = "mma"
    title = "MMA"
    paper = "Yang et al., CVPR 2024"
    trained = "adapters beside the upper layers of both towers"
    parameters_b16 = "674,560"
    new_classes = "the same adapters"
    Settings = MMASettings
    train_settings = coop_training(lr=1.5e-3, epochs=5, batch_size=16, warmup_epochs=0)
    settings: MMASettings

    def __init__(self, clip: CLIP, settings: MMASettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        depth = min(config.text_layers, config.vision_layers)
        first, last = s.first_layer or depth // 3 + 1, s.last_layer or depth
        if first < 0:
            first = max(1, depth + 1 + first)
        if not 1 <= first <= last <= depth:
            raise SettingsError(
                f"Adapters from layer {first} to {last} were asked for, but this backbone has layers 1 to {depth}."
            )
        # Layers of one number are paired; unless they were chosen, those of a deeper tower are its uppermost.
        shift = 0 if s.last_layer else 1
        self.text_first = first + shift * (config.text_layers - depth)
        self.image_first = first + shift * (config.vision_layers - depth)
        count = last - first + 1
        self.text = Ends(count, config.text_width, s.bottleneck)
        self.image = Ends(count, config.vision_width, s.bottleneck)
        self.shared, self.shared_bias = maps(count, s.bottleneck, s.bottleneck)  # (n, r, r), (n, r)

    def beside(self, ends: Ends, first: int) -> Beside:
        """What the adapters add to the layers of a tower."""
        alpha = self.settings.scale

        def add(layer: int, place: Place, u: Tensor) -> Tensor | None:
            i = layer - first
            if place != "layer" or not 0 <= i < len(self.shared):
                return None
            hidden = (scale_gradient(u, alpha) @ ends.down[i].T + ends.down_bias[i]).relu()
            hidden = (hidden @ self.shared[i].T + self.shared_bias[i]).relu()
            return alpha * scale_gradient(hidden @ ends.up[i].T + ends.up_bias[i], 1 / alpha)

        return add

    def read(self, texts: ClassTexts) -> TextGroups[Stem[TextTokens]]:
        return self.clip.text_groups(texts.prompts(texts.template), self.text_first)

    def class_features(self, read: TextGroups[Stem[TextTokens]]) -> Float[Tensor, "classes dim"]:
        return unit(self.clip.text_features(read, beside=self.beside(self.text, self.text_first)))

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        stem = self.clip.visual.stem(images, self.image_first)
        return unit(self.clip.visual.features(stem, beside=self.beside(self.image, self.image_first)))


def maps(layers: int, rows: int, columns: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights (layers, rows, columns), Kaiming-normal over the outputs, and biases (layers, rows), zero."""
    return nn.Parameter((2 / rows) ** 0.5 * torch.randn(layers, rows, columns)), nn.Parameter(torch.zeros(layers, rows))


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by `factor`."""
    x = x.view_as(x)
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient * factor)
    return x
