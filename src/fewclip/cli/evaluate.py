"""`fewclip eval`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewclip.adapters.adapter import Adapter as Loaded
from fewclip.bench.evaluation import choose, evaluate, without
from fewclip.cli.options import Adapter
from fewclip.data.read import read_data


@dataclass(frozen=True, kw_only=True)
class Eval:
    adapter: Adapter
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder with one folder of images per class (or with train/ and test/ of that kind), a CSV file, an embedded or a published
    data set."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that holds the published data sets; by default $FEWCLIP_DATA."""
    split: Literal["base", "novel", "all"] = "base"
    """Classes to test, which are also the candidates: those the adapter was trained on, the others, or all together."""
    part: Literal["train", "val", "test"] = "test"
    """Part of the data to test on, where it has such parts."""
    json: bool = False
    """Print the result as JSON, with the accuracy of each class."""
    per_class: bool = False
    """Print the accuracy of each class."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not where it was when the adapter was trained."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""


def eval(arguments: list[str]) -> int:
    """Measure the accuracy of an adapter on labelled images. Images that it was trained on are left out."""
    options = tyro.cli(Eval, prog="fewclip eval", description=eval.__doc__, args=arguments)
    adapter = Loaded.load(options.adapter, backbone=options.backbone, device=options.device)
    dataset = read_data(options.data, options.part, root=options.root)
    whole = choose(dataset, adapter.trained_classes, options.split)
    held_out = whole
    if dataset.name == adapter.training.data:
        held_out = without(whole, adapter.train_keys)
    result = evaluate(adapter, held_out, options.split)
    if options.json:
        what = {"data": dataset.name, "part": options.part, "weights_sha256": adapter.weights_sha256}
        print(json.dumps(what | result.as_dict(), ensure_ascii=False))
        return 0
    left_out = len(whole) - len(held_out)
    note = f" ({left_out} training images left out)" if left_out else ""
    print(
        f"{dataset.name}, {options.split} classes: {result.accuracy:.1f} % of {result.images} images right among "
        f"{result.classes} classes{note}; mean over classes {result.mean_class_accuracy:.1f} %."
    )
    if options.per_class:
        for name, accuracy in sorted(result.per_class.items(), key=lambda item: item[1]):
            print(f"  {accuracy:6.1f} %  {name}")
    return 0
