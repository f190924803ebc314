"""The evaluation protocols: plain functions that train one classifier and yield a row for everything tested with it.

Base-to-novel, few-shot, cross-dataset and domain generalisation are the papers' (shared/SPEC.md §5-6). `open` is ours:
a user doesn't know beforehand whether an image shows a known or a new class, so both compete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fewclip.bench.rows import Row
from fewclip.bench.run import Bench
from fewclip.data.benchmarks.table import TABLE
from fewclip.errors import SettingsError


def base_to_novel(bench: Bench) -> Iterator[Row]:
    """Train on the first half of the classes; test each half among its own classes."""
    test = bench.test()
    base, novel = bench.train().halves()
    model = bench.fit(bench.train().only(base))
    yield bench.row(model, test.only(base), "base")
    yield bench.row(model, test.only(novel), "novel")


def open_classes(bench: Bench) -> Iterator[Row]:
    """Train on the first half of the classes; test each half among the classes of both."""
    test = bench.test()
    base, novel = bench.train().halves()
    model = bench.fit(bench.train().only(base))
    yield bench.row(model, test.of_classes(base), "base", candidates="all")
    yield bench.row(model, test.of_classes(novel), "novel", candidates="all")


def few_shot(bench: Bench) -> Iterator[Row]:
    """Train and test on all classes."""
    model = bench.fit(bench.train())
    yield bench.row(model, bench.test(), "all")


def transfer(bench: Bench) -> Iterator[Row]:
    """Train on all classes of one data set; test it and others, whose classes all count as new, with their own prompts."""
    model = bench.fit(bench.train())
    yield bench.row(model, bench.test(), "all")
    for target in bench.run.targets:
        yield bench.row(model, bench.test(target), "all", target=target)
        chosen = bench.run.target_settings.get(target)
        if chosen:
            name = ", ".join(f"{key} {value} by target" for key, value in chosen.items())
            yield bench.row(model.with_settings(**chosen), bench.test(target), "all", target=target, variant=name)


@dataclass(frozen=True)
class Protocol:
    """A protocol by name, and what it is run on where nothing is said."""

    name: str
    title: str
    measure: Callable[[Bench], Iterator[Row]]
    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    shots: tuple[int, ...] = (16,)
    new_classes: bool = True
    """It asks for classes that were not trained on."""


LEARNT = tuple(b.key for b in TABLE if b.splits != ("test",))
"""The 11 data sets that can be trained on."""
SHIFTED = tuple(b.key for b in TABLE if b.splits == ("test",))
"""The four shifted ImageNets."""
IMAGENET = ("imagenet",)

PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("base-to-novel", "Base-to-novel generalisation", base_to_novel, LEARNT),
        Protocol("open", "Base and novel classes together", open_classes, LEARNT),
        Protocol("few-shot", "Few-shot learning", few_shot, LEARNT, shots=(1, 2, 4, 8, 16), new_classes=False),
        Protocol(
            "cross-dataset", "Cross-dataset transfer", transfer, IMAGENET, tuple(s for s in LEARNT if s != "imagenet")
        ),
        Protocol("domain-generalization", "Domain generalisation", transfer, IMAGENET, SHIFTED),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in PROTOCOLS:
        raise SettingsError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
