"""`fewclip fit`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewclip.adapters.adapter import Adapter
from fewclip.adapters.disk import CONFIG, OURS
from fewclip.classifier import DEFAULT_BACKBONE, FewShotClassifier
from fewclip.cli.options import parse
from fewclip.data.dataset import Dataset
from fewclip.data.embedded import EMBEDDED
from fewclip.data.read import read_data
from fewclip.data.validation import own_validation
from fewclip.errors import OutputError
from fewclip.files.lock import LOCK, only_writer
from fewclip.files.write import TEMPORARY, clear
from fewclip.methods import METHODS, check_chooses
from fewclip.training.processes import Processes
from fewclip.training.progress import duration
from fewclip.training.settings import split_settings

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class Fit:
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder with one folder of images per class (or with train/ and test/ of that kind), a CSV file (path, class), an
    embedded data set (icons, concepts, kinds-mono), or a published one (see `fewclip data`)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder to write the adapter to: new, empty, or with an unfinished run of the same command, which is resumed."""
    method: Literal[tuple(METHODS)] = "mmrl"  # type: ignore[valid-type]
    """The method (see `fewclip methods`); its own settings are listed below."""
    backbone: Annotated[str, tyro.conf.arg(metavar="NAME")] = DEFAULT_BACKBONE
    """The CLIP to adapt (see `fewclip backbones`): an embedded name, a hub name, a local file or folder."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that holds the published data sets; by default $FEWCLIP_DATA."""
    val: Annotated[str | None, tyro.conf.arg(metavar="split|DATA")] = None
    """Validation images. linear-probe chooses its C by them, tip-adapter and tip-adapter-f their α and β: "split" for the
    val split of DATA, or other data as above. Without them these settings stay as given. Other methods do not accept them."""
    shots: int | Literal["all"] = 16
    """Images per class to train on."""
    template: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Sentence with {} for the class name, or a preset: photo, pet, flower, food, aircraft, texture, satellite, action,
    icon. By default the data set's own, else "a photo of a {}."."""
    train_on: Literal["auto", "base", "all"] = "auto"
    """Classes to train on: all, or the base half, which leaves the rest to test new classes with. Auto: the base half of
    an embedded data set, all classes of other data."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, cuda:1, …; by default a GPU if there is one."""
    overwrite: bool = False
    """Replace an adapter in the output folder, once the new one is finished, or an unfinished run of another command."""
    json: bool = False
    """Print the summary as JSON, without a progress bar."""


def fit(arguments: list[str]) -> int:
    """Train on a few images of each class and write an adapter."""
    options, classifier = chosen(arguments)
    val = validation(options)
    main = Processes(options.device).main
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"The output {options.out} is a file: give a new folder with -o.")
    # The folder is this command's until the adapter is whole in it; the processes of a launcher share it, and one writes.
    with only_writer(options.out) if main else nullcontext():
        check_out(options.out, options.overwrite)
        adapter = learn(options, classifier, val)
        if main:
            adapter.save(options.out)
            (options.out / CHECKPOINT).unlink(missing_ok=True)
    if main:
        show(options, adapter)
    return 0


def validation(options: Fit) -> Dataset | None:
    """The images of --val.

    Raises:
        SettingsError: a method that has no use for them.
        DataError: there are none.
    """
    if options.val is None:
        return None
    check_chooses(options.method)
    if options.val == "split":
        return own_validation(lambda split: read_data(options.data, split, root=options.root))
    return read_data(options.val, "val")


def learn(options: Fit, classifier: FewShotClassifier, val: Dataset | None) -> Adapter:
    """Train, resuming an interrupted run of the same command."""
    if options.backbone == DEFAULT_BACKBONE and options.data not in EMBEDDED and not options.json:
        print(
            f"Note: the backbone {DEFAULT_BACKBONE} was trained on drawings, not on photographs. For photographs add "
            "--backbone openai/clip-vit-base-patch16 (600 MB from the hub), or a local CLIP.",
            file=sys.stderr,
        )
    dataset = read_data(options.data, root=options.root)
    if options.train_on == "base" or (options.train_on == "auto" and options.data in EMBEDDED):
        dataset = dataset.only(dataset.halves()[0])
    return classifier.fit(dataset, val=val, checkpoint=options.out / CHECKPOINT, overwrite=options.overwrite).adapter_


def chosen(arguments: list[str]) -> tuple[Fit, FewShotClassifier]:
    """Options of the command, and a classifier with those of training and of the method that is named.

    Raises:
        SettingsError, PromptError: an option that the classifier refuses.
    """
    method = _method(arguments)
    options, training, settings = parse(fit, arguments, Fit, *split_settings(method, {}))
    return options, FewShotClassifier(
        method,
        options.backbone,
        shots=None if options.shots == "all" else options.shots,
        template=options.template,
        device=options.device,
        verbose=not options.json,
        **asdict(training),
        **asdict(settings),
    )


def _method(arguments: list[str]) -> str:
    """The value of --method. It is read before the rest, since it decides which options there are."""
    for here, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if here == "--method" and following:
            return following
        if here.startswith("--method="):
            return here.partition("=")[2]
    return Fit.method


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds anything but an unfinished run, or an adapter to overwrite.

    Raises:
        OutputError
    """
    ours = (*OURS, CHECKPOINT, LOCK)
    clear(out, *ours)
    present = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if CONFIG in present and not overwrite:
        raise OutputError(
            f"The output folder {out} holds a finished adapter: give another with -o, or add --overwrite."
        )
    others = sorted(n for n in present if not TEMPORARY.fullmatch(n) and not any(fnmatch(n, own) for own in ours))
    if others:
        raise OutputError(f"The output folder {out} is not empty, it holds {others[0]}: give a new one with -o.")


def show(options: Fit, adapter: Adapter) -> None:
    stages = adapter.method.stages
    epochs = len(adapter.training.history) // stages
    summary = {
        "adapter": str(options.out),
        "method": options.method,
        "backbone": adapter.clip.name,
        "classes": adapter.classes,
        "template": adapter.template,
        "parameters": adapter.parameters,
        "images": adapter.training.images,
        "val_images": adapter.training.val_images,
        "chosen": adapter.training.chosen,
        "loss": adapter.training.history[-1]["loss"] if adapter.training.history else None,
        "stages": stages,
        "epochs": epochs,
        "seconds": round(adapter.training.seconds, 2),
    }
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    length = "" if summary["loss"] is None else f", {duration(epochs, stages)}"
    loss = "" if summary["loss"] is None else f", loss {summary['loss']:.3f}"
    if summary["chosen"]:
        settings = ", ".join(f"{name} {value:.4g}" for name, value in summary["chosen"].items())
        print(f"Chosen by {summary['val_images']} validation images: {settings}.")
    print(
        f"{options.method} on {summary['backbone']}: {len(adapter.classes)} classes, {summary['images']} images, "
        f"{summary['parameters']:,} trained parameters{length}, {summary['seconds']} s{loss}.\n"
        f"Saved to {options.out}. Next:\n"
        f"  fewclip eval {options.out} {options.data}\n"
        f"  fewclip predict {options.out} IMAGE … [--classes NAME,NAME,…]"
    )
