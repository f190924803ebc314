"""The 15 published data sets as one table: names, layout on disk, sizes, sources.

They differ in one thing, how it is recorded which image belongs to which class: `reader` names one of the three ways of
`fewclip.data.benchmarks.readers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewclip.clip.templates import TEMPLATES
from fewclip.errors import DataError

COLLECTION = "Hugging Face zhengli97/prompt_learning_dataset"
SPLIT_FILES = "CoOp's Google Drive, or splits/ of GitHub linzhiqiu/cross_modal_adaptation"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set in CoOp's folder layout."""

    key: str
    title: str
    directory: str
    """Its folder under the root."""
    images: str = "images"
    """Folder under `directory` that paths of the split file are relative to, or that holds the class folders."""
    classes: int
    sizes: tuple[int, ...]
    """Published number of images of train, val and test; of train and test for ImageNet; of test for a set that is only
    tested on."""
    source: str
    """Where people can get it."""
    split_file: str = ""
    """The file that lists the images of each split; empty where the class folders are the list."""
    template: str = "photo"
    """A preset of `fewclip.clip.templates`."""
    reader: Literal["split file", "variant lists", "class folders"] = "split file"
    members: Literal["all", "A", "R", "numbers"] = "all"
    """Class folders: which rows of ImageNet's table there are; or numbers, where folders are called 0 to 999."""
    aliases: tuple[str, ...] = ()
    """Further names that it is found by."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits with images of their own, in the order of `sizes`."""
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
        """A path that exists in this set's folder and in no other set's: what it is recognised by."""
        if self.reader != "class folders":
            return self.split_file
        return {"imagenet": "images/train/n01440764", "imagenet_sketch": "images/n01440764"}.get(self.key, self.images)


TABLE = (
    Benchmark(
        key="imagenet",
        title="ImageNet",
        directory="imagenet",
        classes=1000,
        sizes=(1_281_167, 50_000),
        reader="class folders",
        source="image-net.org (registration); the val images sorted into one folder per class",
    ),
    Benchmark(
        key="caltech101",
        title="Caltech101",
        directory="caltech-101",
        images="101_ObjectCategories",
        classes=100,
        sizes=(4128, 1649, 2465),
        split_file="split_zhou_Caltech101.json",
        source="CaltechDATA, DOI 10.22002/D1.20086 (caltech-101.zip holds 101_ObjectCategories.tar.gz)",
    ),
    Benchmark(
        key="oxford_pets",
        title="OxfordPets",
        directory="oxford_pets",
        classes=37,
        sizes=(2944, 736, 3669),
        split_file="split_zhou_OxfordPets.json",
        template="pet",
        source="robots.ox.ac.uk, VGG (images.tar.gz)",
    ),
    Benchmark(
        key="stanford_cars",
        title="StanfordCars",
        directory="stanford_cars",
        images="",
        classes=196,
        sizes=(6509, 1635, 8041),
        split_file="split_zhou_StanfordCars.json",
        source=f"{COLLECTION} (ai.stanford.edu is gone); file names must be cars_train/00001.jpg, cars_test/00001.jpg",
    ),
    Benchmark(
        key="oxford_flowers",
        title="Flowers102",
        directory="oxford_flowers",
        images="jpg",
        classes=102,
        sizes=(4093, 1633, 2463),
        split_file="split_zhou_OxfordFlowers.json",
        template="flower",
        source="robots.ox.ac.uk, VGG (102flowers.tgz)",
    ),
    Benchmark(
        key="food101",
        title="Food101",
        directory="food-101",
        classes=101,
        sizes=(50_500, 20_200, 30_300),
        split_file="split_zhou_Food101.json",
        template="food",
        source="data.vision.ee.ethz.ch (food-101.tar.gz)",
    ),
    Benchmark(
        key="fgvc_aircraft",
        title="FGVCAircraft",
        directory="fgvc_aircraft",
        classes=100,
        sizes=(3334, 3333, 3333),
        split_file="images_variant_train.txt",
        template="aircraft",
        reader="variant lists",
        source="robots.ox.ac.uk, VGG (the data/ folder of fgvc-aircraft-2013b.tar.gz, renamed)",
    ),
    Benchmark(
        key="sun397",
        title="SUN397",
        directory="sun397",
        images="SUN397",
        classes=397,
        sizes=(15_880, 3970, 19_850),
        split_file="split_zhou_SUN397.json",
        source=f"{COLLECTION}, or OpenDataLab/SUN397 (vision.princeton.edu is gone)",
    ),
    Benchmark(
        key="dtd",
        title="DTD",
        directory="dtd",
        classes=47,
        sizes=(2820, 1128, 1692),
        split_file="split_zhou_DescribableTextures.json",
        template="texture",
        source="robots.ox.ac.uk, VGG (dtd-r1.0.1.tar.gz)",
        aliases=("DescribableTextures",),
    ),
    Benchmark(
        key="eurosat",
        title="EuroSAT",
        directory="eurosat",
        images="2750",
        classes=10,
        sizes=(13_500, 5400, 8100),
        split_file="split_zhou_EuroSAT.json",
        template="satellite",
        source="Zenodo record 7711810, or Hugging Face torchgeo/eurosat (the RGB images)",
    ),
    Benchmark(
        key="ucf101",
        title="UCF101",
        directory="ucf101",
        images="UCF-101-midframes",
        classes=101,
        sizes=(7639, 1898, 3783),
        split_file="split_zhou_UCF101.json",
        template="action",
        source="CoOp's Google Drive (UCF-101-midframes.zip: the middle frame of each video)",
    ),
    Benchmark(
        key="imagenetv2",
        title="ImageNetV2",
        directory="imagenetv2",
        images="imagenetv2-matched-frequency-format-val",
        classes=1000,
        sizes=(10_000,),
        reader="class folders",
        members="numbers",
        source="Hugging Face vaishaal/ImageNetV2 (matched-frequency)",
    ),
    Benchmark(
        key="imagenet_sketch",
        title="ImageNet-Sketch",
        directory="imagenet-sketch",
        classes=1000,
        sizes=(50_889,),
        reader="class folders",
        source="GitHub HaohanWang/ImageNet-Sketch (the folder sketch/ renamed to images/)",
    ),
    Benchmark(
        key="imagenet_a",
        title="ImageNet-A",
        directory="imagenet-adversarial",
        images="imagenet-a",
        classes=200,
        sizes=(7500,),
        reader="class folders",
        members="A",
        source="GitHub hendrycks/natural-adv-examples (imagenet-a.tar)",
    ),
    Benchmark(
        key="imagenet_r",
        title="ImageNet-R",
        directory="imagenet-rendition",
        images="imagenet-r",
        classes=200,
        sizes=(30_000,),
        reader="class folders",
        members="R",
        source="GitHub hendrycks/imagenet-r (imagenet-r.tar)",
    ),
)


BENCHMARKS = {benchmark.key: benchmark for benchmark in TABLE}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


_NAMES = {_plain(name): b for b in TABLE for name in (b.key, b.title, b.directory, *b.aliases)}


def named(name: str) -> Benchmark | None:
    """The benchmark of a name: a key, a title or a directory; case, blanks, _ and - don't count."""
    return _NAMES.get(_plain(name))


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        DataError: there is none.
    """
    benchmark = named(name)
    if benchmark is None:
        raise DataError(f"There is no benchmark data set {name!r}: choose from {', '.join(BENCHMARKS)}.")
    return benchmark
