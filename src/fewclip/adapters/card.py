"""The model card of an adapter: README.md with the YAML metadata that the Hugging Face hub reads.

Whatever comes from an adapter's file (class names, data, template, settings) is shown as code, in which neither Markdown nor
HTML has an effect, or is written by huggingface_hub's YAML writer; unprintable characters are shown as escapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewclip.adapters.config import AdapterConfig, known
from fewclip.clip.load import EMBEDDED, hub_id
from fewclip.errors import visible
from fewclip.files.markdown import markdown_table
from fewclip.methods import find

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

FOLDED = 30
"""Classes that are listed openly; a longer list is folded."""
UNKNOWN = "not recorded"


def model_card(
    config: AdapterConfig,
    parameters: int,
    *,
    repo: str | None = None,
    licence: str | None = None,
    results: Sequence[Stated] = (),
) -> str:
    """The card of an adapter.

    Args:
        config: the adapter's configuration.
        parameters: how many numbers were trained.
        repo: where it can be loaded from (`user/name`); None: only from this folder.
        licence: an identifier of the hub, such as mit.
        results: accuracies to state.
    """
    settings = [(code(name), code(value)) for name, value in (config.settings | config.training.settings).items()]
    stated = f"{code(licence)}." if licence else "Not stated."
    data = f" for {code(config.training.data)}" if config.training.data else ""
    sections = [
        f"# {find(config.method).title} adapter of CLIP{data}",
        _introduction(config, parameters),
        _table(("", ""), _facts(config, parameters)),
        f"## Classes\n\n{_classes(config)}",
        f"## Use\n\n{_use(config, repo)}",
        f"## Results\n\n{_results(results)}",
        f"## Settings\n\n{_fold('All settings of training and of the method', _table(('setting', 'value'), settings))}",
        f"## Limits\n\n{_limits(config)}",
        f"## Licence\n\n{stated} The backbone and the training images have their own licences, which are {UNKNOWN} here.",
    ]
    return f"---\n{_metadata(config, repo, licence, results)}\n---\n\n" + "\n\n".join(sections) + "\n"


def code(text: object) -> str:
    """Text as Markdown code in one line; it can't end the code or the line."""
    shown = visible(text).strip() or " "
    runs = [len(run) for run in "".join(c if c == "`" else " " for c in shown).split()]
    fence = "`" * (max(runs, default=0) + 1)
    edge = " " if shown.startswith("`") or shown.endswith("`") or shown == " " else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def _metadata(config: AdapterConfig, repo: str | None, licence: str | None, results: Sequence[Stated]) -> str:
    """The YAML block, as the hub's documentation of model cards describes its keys."""
    from huggingface_hub import ModelCardData

    base = hub_id(config.backbone)
    return ModelCardData(
        library_name="fewclip",
        pipeline_tag="zero-shot-image-classification" if _answers_new(config) else "image-classification",
        tags=["fewclip", visible(config.method), "clip", "few-shot"],
        license=licence,
        base_model=base,
        base_model_relation=None if base is None else "adapter",
        metrics=["accuracy"] if results else None,
        model_name=(repo or visible(config.method)).rpartition("/")[2] if results else None,
        eval_results=[_evaluation(one) for one in results] or None,
    ).to_yaml()


def _evaluation(one: Stated) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="image-classification",
        task_name=visible(one.protocol),
        dataset_type=visible(one.data),
        dataset_name=visible(f"{one.data}, {one.split} classes"),
        # Results of one type, config and split become one entry, under the first one's name: keep all of them apart
        dataset_config=visible(f"{one.protocol}, {one.split} classes, {one.candidates} candidates"),
        dataset_split=visible(one.part),
        metric_type="accuracy",
        metric_value=one.accuracy,
        metric_name="Accuracy (%)",
    )


def _introduction(config: AdapterConfig, parameters: int) -> str:
    return (
        f"{parameters:,} trained parameters that adapt the frozen CLIP {code(config.backbone)} to {len(config.classes)} classes, "
        f"made with fewclip {code(config.fewclip_version)}. CLIP's own weights are not included. The files are safetensors, JSON "
        "and this text; nothing in them is executed."
    )


def _facts(config: AdapterConfig, parameters: int) -> Iterable[tuple[str, str]]:
    kind, training = find(config.method), config.training
    base = hub_id(config.backbone)
    where = "comes with fewclip" if config.backbone in EMBEDDED else "a local file of the author's, not on the hub"
    link = f"[{base}](https://huggingface.co/{base})" if base else where
    yield "Method", f"{kind.title} ({kind.paper})"
    yield "Trained", f"{kind.trained}: {parameters:,} numbers"
    yield "Backbone", f"{code(config.backbone)}: {link}"
    yield "Fingerprint of the backbone", code(config.backbone_fingerprint)
    yield "Data", code(training.data) if training.data else UNKNOWN
    yield "Training images", code(training.images or UNKNOWN)
    every = (
        "all" if training.images else UNKNOWN
    )  # of a training that was recorded, no number of shots means all images
    yield "Images per class", every if training.shots is None else code(training.shots)
    yield "Seed", code(training.settings.get("seed", UNKNOWN))
    yield "Prompt template", code(config.template)
    yield "Training time", f"{training.seconds:.0f} s" if training.images else UNKNOWN
    yield "Adapter format", code(config.format)


def _classes(config: AdapterConfig) -> str:
    kinds = {"Trained": config.classes, "Added by name": config.added_classes}
    return "\n\n".join(_names(names, what) for what, names in kinds.items() if names)


def _names(names: Sequence[str], what: str) -> str:
    shown = ", ".join(map(code, names))
    heading = f"{what} ({len(names)})"
    return f"{heading}: {shown}" if len(names) <= FOLDED else _fold(heading, shown)


def _fold(heading: str, content: str) -> str:
    return f"<details>\n<summary>{heading}</summary>\n\n{content}\n\n</details>"


def _use(config: AdapterConfig, repo: str | None) -> str:
    source = repo or "this folder"
    extra = ""
    if hub_id(config.backbone) is None and config.backbone not in EMBEDDED:
        extra = '\n\nThe backbone is not on the hub: give its file or folder as `backbone="…"` (`--backbone`).'
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
        return "None are stated."
    head = ("protocol", "data", "images of", "classes", "candidates", "images", "accuracy (%)")
    lines = [
        (*map(code, (r.protocol, r.data, r.part, r.split)), str(r.candidates), str(r.images), f"{r.accuracy:.2f}")
        for r in results
    ]
    return (
        f"{_table(head, lines)}\n\nAccuracy is the share of images whose most probable class, among the candidates, is the right "
        "one. Base classes were trained on; novel classes are recognised from their names alone."
    )


def _limits(config: AdapterConfig) -> str:
    new = (
        "Classes that were not trained on are scored from their names, as well as CLIP knows the words; "
        if _answers_new(config)
        else "It knows only the classes that it was trained on; "
    )
    return (
        "* It only loads on the backbone with this fingerprint.\n"
        f"* {new}an image that shows none of the candidates still gets one of them as the most probable.\n"
        "* It was trained on few images: on images of a different kind, or taken in a different way, it can be much less accurate "
        "than stated. CLIP's biases about people, places and words remain.\n"
        "* Probabilities come from a softmax and were not calibrated."
    )


def _answers_new(config: AdapterConfig) -> bool:
    kind = find(config.method)
    try:
        return kind.answers_new_with(kind.Settings(**known(kind.Settings, config.settings)))
    except (TypeError, ValueError):
        return bool(kind.new_classes)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table whose cells can't end early: not even code may hold the sign that separates them."""
    return markdown_table(head, ([cell.replace("|", "\\x7c") for cell in line] for line in lines))


@dataclass(frozen=True)
class Stated:
    """One accuracy, in per cent, and what it was measured on."""

    protocol: str
    """The protocol of `fewclip bench`, or `fewclip eval`."""
    data: str
    part: str
    """The part that the images are of: train, val or test."""
    split: str
    """The classes that the images are of: base, novel or all."""
    candidates: int
    """How many classes there were to choose from."""
    images: int
    accuracy: float
