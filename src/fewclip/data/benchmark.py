"""What there is to say about one published data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewclip.templates import TEMPLATES

COLLECTION = "Hugging Face zhengli97/prompt_learning_dataset"
SPLIT_FILES = "CoOp's Google Drive, or splits/ of GitHub linzhiqiu/cross_modal_adaptation"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set in CoOp's folder layout. Sizes are the published ones; `source` tells people where it comes from."""

    key: str
    title: str
    directory: str
    """Its folder below the root."""
    images: str
    """Folder below `directory` that paths of the split file are relative to, or that holds the class folders."""
    classes: int
    sizes: tuple[int, ...]
    """Images of train, val and test; of train and test for ImageNet; of test for a set that is only tested on."""
    source: str
    split_file: str = ""
    """What says which image is where; empty where the class folders do."""
    template: str = "photo"
    """A preset of `fewclip.templates`."""
    reader: Literal["split file", "variant lists", "class folders"] = "split file"
    members: Literal["all", "A", "R", "numbers"] = "all"
    """Class folders: those of ImageNet's table that there are, or numbers that stand for its rows."""
    aliases: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images of their own, in the order of `sizes`."""
        return {3: ("train", "val", "test"), 2: ("train", "test"), 1: ("test",)}[len(self.sizes)]

    @property
    def published(self) -> dict[str, int]:
        """Images of each split."""
        return dict(zip(self.splits, self.sizes, strict=True))

    @property
    def base(self) -> int | None:
        """Classes of the base half; None for a set that is only tested on."""
        return None if self.splits == ("test",) else (self.classes + 1) // 2

    @property
    def sentence(self) -> str:
        """The prompt template."""
        return TEMPLATES[self.template]

    @property
    def sign(self) -> str:
        """What is in this set's folder and in no other set's."""
        if self.reader != "class folders":
            return self.split_file
        return {"imagenet": "images/train/n01440764", "imagenet_sketch": "images/n01440764"}.get(self.key, self.images)
