"""The model card of an adapter: README.md with the YAML metadata that the Hugging Face hub reads.

Whatever comes from an adapter's file (class names, data, template, settings) is shown as code, in which neither Markdown
nor HTML acts, or goes through the YAML library; what is not printable is shown as its escape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fewclip.clip.load import EMBEDDED, hub_id
from fewclip.errors import SettingsError
from fewclip.files.markdown import markdown_table
from fewclip.methods import find

if TYPE_CHECKING:
    from fewclip.adapters.config import AdapterConfig


FOLDED = 30
"""Classes that are shown at once; more of them are folded away."""


UNKNOWN = "not recorded"


def model_card(
    config: AdapterConfig,
    parameters: int,
    *,
    repo: str | None = None,
    licence: str | None = None,
    results: Sequence[Stated] = (),
) -> str:
    """The card of an adapter with that many trained numbers.

    `repo` is where it can be loaded from (`user/name`), `licence` an identifier of the hub such as mit, `results` what was
    measured of it.
    """
    sections = [
        f"# {_title(config)}",
        _introduction(config, parameters),
        _table(("", ""), _facts(config, parameters)),
        f"## Classes\n\n{_classes(config)}",
        f"## Use\n\n{_use(config, repo)}",
        f"## Results\n\n{_results(results)}",
        f"## Settings\n\n{_fold('All settings of training and of the method', _table(('setting', 'value'), _settings(config)))}",
        f"## Limits\n\n{_limits(config)}",
        f"## Licence\n\n{_licence(licence)}",
    ]
    return f"---\n{_metadata(config, repo, licence, results)}---\n\n" + "\n\n".join(sections) + "\n"


def code(text: object) -> str:
    """Text as Markdown code in one line; it can end neither the code nor the line."""
    shown = plain(text) or " "
    runs = [len(run) for run in "".join(c if c == "`" else " " for c in shown).split()]
    fence = "`" * (max(runs, default=0) + 1)
    edge = " " if shown.startswith("`") or shown.endswith("`") or shown == " " else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def plain(text: object) -> str:
    """Text in one line with its unprintable characters (controls, line ends, changes of direction) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)).strip()


def _metadata(config: AdapterConfig, repo: str | None, licence: str | None, results: Sequence[Stated]) -> str:
    """The YAML block, as the hub's documentation of model cards describes its keys."""
    import yaml

    base = hub_id(config.backbone)
    data: dict[str, Any] = {
        "library_name": "fewclip",
        "pipeline_tag": "zero-shot-image-classification" if _answers_new(config) else "image-classification",
        "tags": ["fewclip", plain(config.method), "clip", "few-shot"],
    }
    if licence is not None:
        data["license"] = licence
    if base is not None:
        data |= {"base_model": base, "base_model_relation": "adapter"}
    if results:
        data["metrics"] = ["accuracy"]
        name = (repo or plain(config.method)).rpartition("/")[2]
        data["model-index"] = [{"name": name, "results": [_evaluation(one) for one in results]}]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=float("inf"))


def _evaluation(one: Stated) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification", "name": plain(one.protocol)},
        "dataset": {
            "name": plain(f"{one.data}, {one.split} classes"),
            "type": plain(one.data),
            "split": plain(one.part),
        },
        "metrics": [{"type": "accuracy", "value": one.accuracy, "name": "Accuracy (%)"}],
    }


def _title(config: AdapterConfig) -> str:
    data = config.training.data
    return f"{find(config.method).title} adapter of CLIP" + (f" for {code(data)}" if data else "")


def _introduction(config: AdapterConfig, parameters: int) -> str:
    return (
        f"{parameters:,} numbers that adapt the frozen CLIP {code(config.backbone)} to {len(config.classes)} classes, made with "
        f"fewclip {code(config.fewclip_version)}. CLIP's own weights are not in here. The files are safetensors, JSON and this "
        "text; nothing in them is executed."
    )


def _facts(config: AdapterConfig, parameters: int) -> Iterable[tuple[str, str]]:
    kind, training = find(config.method), config.training
    base = hub_id(config.backbone)
    where = "comes with fewclip" if config.backbone in EMBEDDED else "a file of its maker's, not on the hub"
    link = f"[{base}](https://huggingface.co/{base})" if base else where
    yield "Method", f"{kind.title} ({kind.paper})"
    yield "Trained", f"{kind.trained}: {parameters:,} numbers"
    yield "Backbone", f"{code(config.backbone)}: {link}"
    yield "Fingerprint of the backbone", code(config.backbone_fingerprint)
    yield "Data", code(training.data) if training.data else UNKNOWN
    yield "Training images", code(training.images or UNKNOWN)
    yield "Images of each class", "all there are" if training.shots is None else code(training.shots)
    yield "Seed", code(training.settings.get("seed", UNKNOWN))
    yield "Prompt template", code(config.template)
    yield "Time of training", f"{training.seconds:.0f} s"
    yield "Adapter format", code(config.format)


def _classes(config: AdapterConfig) -> str:
    parts = [_names(config.classes, "Trained")]
    if config.added_classes:
        parts.append(_names(config.added_classes, "Added by name alone"))
    return "\n\n".join(parts)


def _names(names: Sequence[str], what: str) -> str:
    shown = ", ".join(map(code, names))
    heading = f"{what} ({len(names)})"
    return f"{heading}: {shown}" if len(names) <= FOLDED else _fold(heading, shown)


def _fold(heading: str, content: str) -> str:
    return f"<details>\n<summary>{heading}</summary>\n\n{content}\n\n</details>"


def _use(config: AdapterConfig, repo: str | None) -> str:
    source = "this folder" if repo is None else repo
    extra = ""
    if hub_id(config.backbone) is None and config.backbone not in EMBEDDED:
        extra = '\n\nThe backbone is not on the hub: add `backbone="its file or folder"` (`--backbone`).'
    new = (
        'classifier.predict_proba(["image.jpg"], classes=["a known class", "a new class"])\n'
        if _answers_new(config)
        else ""
    )
    return f"""```bash
pip install fewclip
fewclip predict "{source}" image.jpg
```

```python
from fewclip import FewShotClassifier

classifier = FewShotClassifier.load("{source}")
classifier.predict(["image.jpg"])
{new}```{extra}"""


def _results(results: Sequence[Stated]) -> str:
    if not results:
        return "None were given."
    head = ("protocol", "data", "images of", "classes", "candidates", "images", "accuracy (%)")
    lines = [
        (
            code(r.protocol),
            code(r.data),
            code(r.part),
            code(r.split),
            str(r.candidates),
            str(r.images),
            f"{r.accuracy:.2f}",
        )
        for r in results
    ]
    return (
        f"{_table(head, lines)}\n\nAccuracy is the share of images whose most probable class, among the candidates, is the right "
        "one. Base classes were trained, novel ones are known by name alone."
    )


def _settings(config: AdapterConfig) -> Iterable[tuple[str, str]]:
    return ((code(name), code(value)) for name, value in (config.settings | config.training.settings).items())


def _limits(config: AdapterConfig) -> str:
    new = (
        "Classes that were not trained are scored by their names, as well as CLIP knows the words; "
        if _answers_new(config)
        else "It knows only the classes that it was trained on; "
    )
    return (
        f"* It works on the backbone with the fingerprint above alone, and is refused on another.\n"
        f"* {new}an image of none of the candidates still gets one of them as the most probable.\n"
        "* It was trained on few images: on pictures of another kind, or taken in another way, it can be much worse than its "
        "results. What CLIP has learnt amiss of people, places and words stays in it.\n"
        "* Probabilities are those of a softmax; how far they can be trusted was not adjusted."
    )


def _licence(licence: str | None) -> str:
    said = f"{code(licence)}." if licence else "Not stated by whoever made this card."
    return f"{said} The backbone and the training images have licences of their own, which are {UNKNOWN} here."


def _answers_new(config: AdapterConfig) -> bool:
    kind = find(config.method)
    known = {f.name for f in fields(kind.Settings)}
    try:
        return kind.answers_new_with(kind.Settings(**{k: v for k, v in config.settings.items() if k in known}))
    except (SettingsError, TypeError, ValueError):
        return bool(kind.new_classes)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table whose cells can't end early: not even code may hold the sign that separates them."""
    return markdown_table(head, ([cell.replace("|", "\\x7c") for cell in line] for line in lines))


@dataclass(frozen=True)
class Stated:
    """One accuracy, in per cent, with all that it depends on."""

    protocol: str
    """The protocol of `fewclip bench`, or `fewclip eval`."""
    data: str
    part: str
    """Images: train, val or test."""
    split: str
    """Classes of the images: base, novel or all."""
    candidates: int
    """How many classes there were to choose from."""
    images: int
    accuracy: float
