"""Deep prompts: tokens learned for the first J layers of both towers, the architecture of MaPLe, PromptSRC, MetaPrompt.

The tokens of layer 1 take the place of the prompt's first words (text, with their positions) and are added to the patches
(image, after ln_pre); those of layers 2..J replace the previous layer's output there. The place of an image token among
the others makes no difference, since attention there is full and the tokens have no position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Insertion
from fewclip.methods.base import Images, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots, sentence, start_from_words
from fewclip.methods.cosine import CosineMethod

if TYPE_CHECKING:
    from jaxtyping import Float


class DeepPrompts(CosineMethod):
    """A subclass has the parameters `text` and `image`, or makes the image tokens otherwise."""

    text: nn.Parameter
    image: nn.Parameter
    words: str = ""
    """What the text tokens of layer 1 start from, if there are at least as many words; further ones stay in the prompt."""

    def image_tokens(self) -> Float[Tensor, "depth n width"]:
        """The tokens of each image layer, from the first on."""
        return self.image

    def prompts(self, texts: ClassTexts) -> Prompts:
        """One sentence per class; its first words are replaced by the text tokens of layer 1."""
        return texts.prompts(sentence(self.text.shape[1], self.words))

    def prepare(self, texts: ClassTexts) -> None:
        start_from_words(self.text[0], self.words, self.clip, self.prompts(texts))
        super().prepare(texts)

    def read(self, texts: ClassTexts) -> Slots:
        return Slots(self.clip, self.prompts(texts), self.text.shape[1])

    def class_features(self, read: Slots) -> Float[Tensor, "classes dim"]:
        deeper = Insertion(2, self.text[1:], there=True)
        return unit(self.clip.text_features(read.fill(self.text[0]), deeper.text))

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        visual, tokens = self.clip.visual, self.image_tokens()
        edit = Insertion(1, [visual.ln_pre(tokens[0]), *tokens[1:]])
        return unit(visual.features(visual.stem(images), edit.image))
