"""The evaluation protocols: plain functions that train one adapter and yield a row for everything tested with it.

Base-to-novel, few-shot, cross-dataset and domain generalisation are the papers' (docs/protocols.md). `open` is ours: a user
does not know beforehand whether an image shows a known or a new class, so all of them compete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fewclip.adapters.adapter import Adapter
from fewclip.bench.evaluation import evaluate, without
from fewclip.bench.machine import PeakMemory
from fewclip.bench.rows import Row, tested_row
from fewclip.bench.run import Run, Where, backbone, read
from fewclip.classifier import FewShotClassifier
from fewclip.clip.templates import find_template
from fewclip.data.dataset import VAL_SHOTS, Dataset
from fewclip.data.validation import own_validation
from fewclip.errors import DataError, SettingsError
from fewclip.training.checkpoint import CheckpointError


class Bench:
    """What a protocol works with: the data of a run, an adapter trained as the run describes, rows."""

    def __init__(self, run: Run, where: Where) -> None:
        self.run, self.where = run, where
        self.memory = PeakMemory()
        self.note: str | None = None

    def train(self) -> Dataset:
        """The images to pick shots from."""
        return read(self.run.source, "train", self.where.root)

    def test(self, name: str | None = None) -> Dataset:
        """The images to test on, by default those of the source."""
        return read(name or self.run.source, "test", self.where.root)

    def val(self, train: Dataset) -> Dataset | None:
        """The validation images that the run chooses settings by; None where it does not, or the data has none."""
        run = self.run
        if not run.val:
            return None
        try:
            val = own_validation(lambda split: read(run.source, split, self.where.root))
        except DataError:
            return None
        return val if run.val == "all" else train.few_shot_and_val(val, run.shots or VAL_SHOTS, run.seed)[1]

    def fit(self, train: Dataset) -> Adapter:
        """Train, or resume where an interrupted run of the same name stopped. A checkpoint that can't be resumed from (of
        other settings after an upgrade, of other images after a change in the folder, damaged) is replaced, as `note` records."""
        run = self.run
        model = FewShotClassifier(
            run.method,
            backbone(run.backbone),
            shots=run.shots,
            template=run.template,
            device=self.where.device,
            **{"seed": run.seed, **run.settings},
        )
        val, checkpoint = self.val(train), self.where.checkpoint(run)
        try:
            model.fit(train, val=val, checkpoint=checkpoint)
        except CheckpointError as error:
            self.note = f"trained from the start, because its checkpoint {error.reason}"
            model.fit(train, val=val, checkpoint=checkpoint, overwrite=True)
        return model.adapter_

    def row(
        self,
        adapter: Adapter,
        test: Dataset,
        split: str,
        *,
        candidates: str = "split",
        target: str | None = None,
        variant: str | None = None,
    ) -> Row:
        """Test and describe. `target`: a data set other than the source; all its classes count as new."""
        if target is None:
            test = without(test, adapter.train_keys)  # of data without a test split of its own
            template = adapter.template
        else:
            template = find_template(self.run.template or test.template or "photo")
        result = evaluate(adapter, test, split, template=template, unseen=target is not None)
        return tested_row(
            self.run,
            adapter,
            result,
            self.memory,
            dataset=target or self.run.source,
            template=template,
            candidates=candidates,
            variant=variant,
        )


def base_to_novel(bench: Bench) -> Iterator[Row]:
    """Train on the first half of the classes; test each half among its own classes."""
    test = bench.test()
    base, novel = bench.train().halves()
    adapter = bench.fit(bench.train().only(base))
    yield bench.row(adapter, test.only(base), "base")
    yield bench.row(adapter, test.only(novel), "novel")


def open_classes(bench: Bench) -> Iterator[Row]:
    """Train on the first half of the classes; test each half among the classes of both."""
    test = bench.test()
    base, novel = bench.train().halves()
    adapter = bench.fit(bench.train().only(base))
    yield bench.row(adapter, test.of_classes(base), "base", candidates="all")
    yield bench.row(adapter, test.of_classes(novel), "novel", candidates="all")


def few_shot(bench: Bench) -> Iterator[Row]:
    """Train and test on all classes."""
    adapter = bench.fit(bench.train())
    yield bench.row(adapter, bench.test(), "all")


def transfer(bench: Bench) -> Iterator[Row]:
    """Train on all classes of one data set; test it and others, whose classes all count as new and have their own prompts."""
    adapter = bench.fit(bench.train())
    yield bench.row(adapter, bench.test(), "all")
    for target in bench.run.targets:
        yield bench.row(adapter, bench.test(target), "all", target=target)
        chosen = bench.run.target_settings.get(target)
        if chosen:
            name = ", ".join(f"{key} {value} by target" for key, value in chosen.items())
            yield bench.row(adapter.with_settings(**chosen), bench.test(target), "all", target=target, variant=name)


@dataclass(frozen=True)
class Protocol:
    """A protocol by name, and what it runs on by default."""

    name: str
    title: str
    """In reports; up to the colon where there is little room."""
    measure: Callable[[Bench], Iterator[Row]]
    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    shots: tuple[int, ...] = (16,)
    new_classes: bool = True
    """It asks for classes that were not trained on."""


# Written out, not derived from the table of data sets: what was published does not change when a set joins the table.
IMAGENET = ("imagenet",)
OTHER_TEN = (
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "fgvc_aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
ELEVEN = (*IMAGENET, *OTHER_TEN)
"""The papers' data sets for base-to-novel and few-shot."""
SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
"""The four shifted versions of ImageNet."""

PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("base-to-novel", "Base to novel", base_to_novel, ELEVEN),
        Protocol("open", "Open: base and novel together", open_classes, ELEVEN),
        Protocol("few-shot", "Few-shot", few_shot, ELEVEN, shots=(1, 2, 4, 8, 16), new_classes=False),
        Protocol("cross-dataset", "Cross-dataset", transfer, IMAGENET, OTHER_TEN),
        Protocol("domain-generalization", "Domain generalisation", transfer, IMAGENET, SHIFTED),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        SettingsError: an unknown protocol.
    """
    if name not in PROTOCOLS:
        raise SettingsError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
