"""`fewclip predict`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewclip.classifier import PREDICT_BATCH, FewShotClassifier
from fewclip.clip.preprocess import read_image
from fewclip.data.folder import list_images
from fewclip.errors import DataError, SettingsError, visible


@dataclass(frozen=True, kw_only=True)
class Predict:
    adapter: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ADAPTER")]
    """Folder that `fewclip fit` wrote."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[IMAGES]")]
    """Images, or folders of images."""
    classes: str | None = None
    """Candidates, separated by commas: known names and new ones may mix. By default the classes of the adapter."""
    top: int = 1
    """How many classes to show of each image."""
    json: bool = False
    """One JSON object a line: image, classes (name and probability), or error."""
    csv: bool = False
    """CSV: image, rank, class, probability, error."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not under the name it had."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""


def predict(arguments: list[str]) -> int:
    """Name what images show."""
    options = tyro.cli(Predict, prog="fewclip predict", description=predict.__doc__, args=arguments)
    if options.json and options.csv:
        raise SettingsError("--json and --csv were both given: choose one.")
    if options.top < 1:
        raise SettingsError(f"--top is {options.top}, but it must be at least 1.")
    paths = list(expand(options.images))
    classifier = FewShotClassifier.load(options.adapter, backbone=options.backbone, device=options.device)
    names = (
        classifier.classes_ if options.classes is None else [n.strip() for n in options.classes.split(",") if n.strip()]
    )
    failed = 0
    write = _writer(options)
    for path, probabilities, error in rows(classifier, paths, names):
        failed += error is not None
        ranked = [] if probabilities is None else probabilities.argsort()[::-1][: options.top]
        write(path, [(names[i], float(probabilities[i])) for i in ranked], error)
    if failed:
        print(f"fewclip predict: {failed} of {len(paths)} images could not be read.", file=sys.stderr)
    return 1 if failed else 0


def expand(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Files as they are, folders as the images below them.

    Raises:
        DataError: nothing there.
    """
    if not paths:
        raise DataError("No images were given: name image files or folders behind the adapter.")
    for path in paths:
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise DataError(f"The folder {path} holds no images.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise DataError(f"There is no image {path}.")


def rows(classifier: FewShotClassifier, paths: list[Path], names: list[str]) -> Iterator[tuple[Path, Any, str | None]]:
    """Path, probabilities, error of each image in order; one unreadable image doesn't stop the others."""
    for start in range(0, len(paths), PREDICT_BATCH):
        part = paths[start : start + PREDICT_BATCH]
        images: list[Any] = []
        errors: dict[int, str] = {}
        for i, path in enumerate(part):
            try:
                images.append(read_image(path))
            except DataError as error:
                errors[i] = str(error)
        found = iter(classifier.predict_proba(images, names))
        for i, path in enumerate(part):
            yield (path, None, errors[i]) if i in errors else (path, next(found), None)


def _writer(options: Predict) -> Any:
    if options.json:

        def as_json(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
            classes = [{"class": name, "probability": round(p, 6)} for name, p in ranked]
            print(
                json.dumps(
                    {"image": str(path)} | ({"error": error} if error else {"classes": classes}), ensure_ascii=False
                )
            )

        return as_json
    if options.csv:
        table = csv.writer(sys.stdout)
        table.writerow(["image", "rank", "class", "probability", "error"])

        def as_csv(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
            if error:
                table.writerow([path, "", "", "", error])
            for rank, (name, p) in enumerate(ranked, 1):
                table.writerow([path, rank, name, f"{p:.6f}", ""])

        return as_csv

    def as_text(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
        print(
            f"{visible(str(path))}  "
            + (f"error: {error}" if error else "  ".join(f"{name} {100 * p:.1f} %" for name, p in ranked))
        )

    return as_text
