"""FewShotClassifier: fit, predict, predict_proba, score, save, load."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import Adapter, frozen
from fewclip.adapters.card import Stated
from fewclip.adapters.config import TrainingSummary
from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.clip.templates import find_template
from fewclip.data.batches import DatasetExamples, TrainingBatches
from fewclip.data.dataset import Dataset
from fewclip.data.names import check_names, key, match
from fewclip.data.read import Data, read_data
from fewclip.data.validation import held_out
from fewclip.errors import DataError, FewclipError, SettingsError
from fewclip.methods import check_chooses, find, make_settings
from fewclip.methods.classes import ClassTexts
from fewclip.training.checkpoint import Checkpoint
from fewclip.training.loop import train
from fewclip.training.processes import Processes
from fewclip.training.progress import ProgressBar
from fewclip.training.settings import TrainSettings, published_training

if TYPE_CHECKING:
    from jaxtyping import Float

DEFAULT_BACKBONE = "icon-clip"
PREDICT_BATCH = 64


class FewShotClassifier:
    """A frozen CLIP adapted to labelled images, with scikit-learn's interface.

    Args:
        method: a name in `fewclip.methods.METHODS`.
        backbone: what `CLIP.from_pretrained` takes, or a CLIP; by default `icon-clip`, which knows drawings alone.
        shots: images of each class to train on; None takes all.
        template: a sentence with `{}` where the class name goes, or a preset of `fewclip.clip.templates`; by default the
            data set's own, else "a photo of a {}.".
        device: where to compute; by default a GPU if there is one.
        verbose: show a progress bar.
        **settings: any field of `TrainSettings` (epochs, batch_size, lr, seed, …) or of the method's own settings
            (for MMRL: rep_tokens, alpha, reg_weight, …).

    Attributes:
        adapter_: what was learnt, after `fit` or `load`: an `Adapter`.
        classes_: names of all classes that `predict` chooses from: trained ones, then added ones.

    Raises:
        SettingsError: an unknown method or setting.
    """

    def __init__(
        self,
        method: str = "mmrl",
        backbone: str | CLIP = DEFAULT_BACKBONE,
        *,
        shots: int | None = 16,
        template: str | None = None,
        device: str | None = None,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.method, self.backbone, self.shots, self.template = method, backbone, shots, template
        self.device, self.verbose = device, verbose
        self.settings = settings
        self.split_settings()

    def split_settings(self) -> tuple[TrainSettings, Any]:
        """The settings of training and those of the method."""
        names = {f.name for f in fields(TrainSettings)}
        training = TrainSettings(
            **(published_training(self.method) | {k: self.settings[k] for k in names & {*self.settings}})
        )
        try:
            return training, make_settings(self.method, {k: v for k, v in self.settings.items() if k not in names})
        except SettingsError as error:
            if self.settings:
                raise SettingsError(f"{error} Settings of training: {', '.join(sorted(names))}.") from None
            raise

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All constructor arguments, as scikit-learn's `clone` asks for them."""
        own = {name: getattr(self, name) for name in ("method", "backbone", "shots", "template", "device", "verbose")}
        return own | self.settings

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Change constructor arguments; takes effect with the next `fit`.

        Raises:
            SettingsError: an unknown method or setting.
        """
        for name, value in params.items():
            if name in self.get_params() and name not in self.settings:
                setattr(self, name, value)
            else:
                self.settings[name] = value
        self.split_settings()
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items() if not isinstance(v, CLIP))
        return f"FewShotClassifier({shown})"

    # Learning

    def fit(
        self,
        data: Data | Sequence[Any],
        labels: Sequence[str] | None = None,
        *,
        val: Data | Sequence[Any] | None = None,
        checkpoint: str | Path | None = None,
        overwrite: bool = False,
    ) -> FewShotClassifier:
        """Train, and return the classifier itself.

        Args:
            data: a folder with one folder a class, a CSV file, the name of an embedded or published data set, a `Dataset`,
                pairs (image, class name), or images.
            labels: the class name of each image, where `data` is images alone.
            val: labelled images of the same classes, for methods that choose settings by them (linear-probe: C; tip-adapter
                and tip-adapter-f: α and β); the others refuse it. Files that are trained on are left out.
            checkpoint: a file where the state of the run is kept; a run that was interrupted goes on from it.
            overwrite: replace a checkpoint of another run, which is refused otherwise.

        Raises:
            DataError: unusable data, one class only, fewer images than shots, an unreadable image.
            PromptError: class names that make no prompts, or the same prompt.
            BackboneError: the backbone can't be loaded.
            SettingsError: a setting out of its range.
            TrainingError: a loss that is not finite.
            OutputError: the checkpoint can't be written.
        """
        settings, own = self.split_settings()
        if val is not None:
            check_chooses(self.method)
        dataset = self._picked(read_data(_paired(data, labels)), settings.seed)
        processes = Processes(self.device)
        clip = frozen(self.backbone, processes.device)
        # Everything is built aside. Whatever stops a fit (a mistake, a damaged image, Ctrl-C) leaves the classifier as it was.
        with torch.random.fork_rng(devices=[processes.device] if processes.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            method = find(self.method)(clip, own, len(dataset.classes)).to(processes.device)
            template = find_template(self.template or dataset.template or "photo")
            started = time.monotonic()
            method.prepare(ClassTexts(dataset.classes, template, clip.tokenizer, clip.config.context_length))
            checks = None if val is None else self._examples(held_out(_val(val), dataset), clip, settings)
            method.memorise(self._examples(dataset, clip, settings), checks)
            seconds, history = time.monotonic() - started, []
            if method.parameter_count():
                batches = _batches(dataset, clip, settings, processes)
                settings = settings.with_epochs(self.shots or max(Counter(dataset.labels).values()), len(batches))
                state = None
                if checkpoint is not None:
                    run = _identity(dataset, clip, self.method, template, settings, own)
                    state = Checkpoint(Path(checkpoint), run, overwrite)
                epochs = settings.epochs * method.stages
                total = epochs * len(batches) * batches.batch_size
                with ProgressBar(self.method, epochs, total, shown=self.verbose and processes.main) as bar:
                    done = train(method, batches, settings, processes, checkpoint=state, report=bar.report)
                history, seconds = done.history, seconds + done.seconds
        processes.wait()
        summary = TrainingSummary(
            data=dataset.name,
            shots=self.shots,
            images=len(dataset),
            val_images=0 if checks is None else len(checks.labels),
            chosen=method.chosen,
            seconds=round(seconds, 3),
            history=history,
            settings=asdict(settings),
        )
        self.adapter_ = Adapter(
            clip, method, dataset.classes, template=template, training=summary, train_keys=dataset.keys
        )
        return self

    def _picked(self, dataset: Dataset, seed: int) -> Dataset:
        """The images to train on."""
        if len(dataset.classes) < 2:
            raise DataError(
                f"{dataset.name} has the single class {dataset.classes[0]!r}: a classifier needs at least two, each in "
                "a folder of its own."
            )
        check_names(dataset.classes, where=dataset.name, repeats=dataset.published)
        if self.shots is None:
            return dataset
        if self.shots < 1:
            raise SettingsError(f"shots is {self.shots}, but it must be at least 1, or None for all images.")
        return dataset.few_shot(self.shots, seed)

    def _examples(self, dataset: Dataset, clip: CLIP, settings: TrainSettings) -> DatasetExamples:
        return DatasetExamples(dataset, clip.preprocess, seed=settings.seed, crop_min=settings.crop_min)

    # Fitted state

    def _fitted(self) -> Adapter:
        if not hasattr(self, "adapter_"):
            raise FewclipError("This classifier is not fitted yet: call fit first, or load an adapter.")
        return self.adapter_

    @property
    def classes_(self) -> list[str]:
        return self._fitted().classes

    def add_classes(self, names: Sequence[str]) -> FewShotClassifier:
        """Let `predict` choose from further classes, known by their names only.

        Raises:
            PromptError: a name that makes no prompt, or that of a class that is there already.
            SettingsError: the method says nothing about classes it was not trained on.
        """
        self._fitted().add_classes(names)
        return self

    # Predicting

    def predict_proba(self, images: Any, classes: Sequence[str] | None = None) -> np.ndarray:
        """Probabilities (images, classes), float32, each row a distribution.

        Args:
            images: one image or many: paths, PIL images, arrays (height, width, 3), tensors, encoded bytes.
            classes: the candidates, by default all of `classes_`. Trained names may mix with new ones; the order is kept.
                MMRL scores trained ones by both features and new ones by the class feature.

        Raises:
            FewclipError: it is not fitted yet.
            DataError: an image can't be read, or there is no candidate.
            PromptError: a name that makes no prompt, or two that make the same.
            SettingsError: a new name, where the method knows trained classes alone.
        """
        return torch.softmax(self._fitted().scores(images, classes), dim=-1).numpy()

    def predict(self, images: Any, classes: Sequence[str] | None = None) -> np.ndarray:
        """The most probable class name of each image: (images,), an array of str. Arguments and errors as `predict_proba`."""
        names = np.array(self.classes_ if classes is None else list(classes), dtype=object)
        return names[self._fitted().scores(images, classes).argmax(dim=-1).numpy()]

    def scores(self, images: Any, classes: Sequence[str] | None = None) -> Float[Tensor, "images classes"]:
        """Logits in float32, on the CPU. Arguments and errors as `predict_proba`."""
        return self._fitted().scores(images, classes)

    def score(self, data: Data | Sequence[Any], labels: Sequence[str] | None = None) -> float:
        """Accuracy as a share, 0 to 1, on whatever `fit` takes; the candidates are `classes_`.

        Images that were trained on are not left out: `fewclip.bench.evaluation` does that, and says more.

        Raises:
            DataError: unusable data, or a class that this classifier doesn't know.
        """
        dataset = read_data(_paired(data, labels), "test")
        places = match([key(name) for name in dataset.classes], [key(name) for name in self.classes_])
        for name, place in zip(dataset.classes, places, strict=True):
            if place is None:
                raise DataError(
                    f"{dataset.name} has the class {name!r}, which this classifier doesn't know: add_classes([{name!r}])."
                )
        truth = torch.tensor([places[label] for label in dataset.labels])
        return float((self._fitted().scores(dataset.images).argmax(-1) == truth).float().mean())

    # Keeping

    def save(self, folder: str | Path) -> None:
        """Write the adapter: trained tensors, configuration, model card.

        Raises:
            OutputError: the place can't be written to.
        """
        self._fitted().save(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backbone: str | CLIP | None = None,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> FewShotClassifier:
        """A fitted classifier of an adapter; arguments and errors as `Adapter.load`."""
        return cls.of(Adapter.load(folder, backbone=backbone, device=device, revision=revision, token=token), device)

    @classmethod
    def of(cls, adapter: Adapter, device: str | None = None) -> FewShotClassifier:
        """A fitted classifier of an adapter; its next `fit` trains as the adapter was trained."""
        classifier = cls(
            adapter.method.name,
            adapter.clip.name or adapter.clip,
            shots=adapter.training.shots,
            template=adapter.template,
            device=device,
            **adapter.training.settings,
            **asdict(adapter.method.settings),
        )
        classifier.adapter_ = adapter
        return classifier

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
        results: Sequence[Stated] = (),
        train_names: bool = True,
    ) -> str:
        """Save the adapter with its model card in a repository of the Hugging Face hub; returns the commit's address.

        `repo_id` is user/name, made if there is none; `private` is for a new one. `revision` is a branch. The card states
        `license` (an identifier such as mit) and `results` (`fewclip.bench.stated.read_results` reads them from a file of
        `fewclip bench` or `fewclip eval --json`). Without `train_names` the names of the training images are left out.

        Raises:
            OutputError: no access, no network, or a name or a licence that the hub doesn't take.
        """
        from fewclip.adapters.push import push

        packing = {"licence": license, "results": results, "train_names": train_names}
        sending = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
        return push(self._fitted(), repo_id, packing, sending | {"message": commit_message})


def _paired(data: Any, labels: Sequence[str] | None) -> Any:
    if labels is None:
        return data
    images = list(data)
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images were given with {len(labels)} labels: expected one label an image.")
    return list(zip(images, [str(label) for label in labels], strict=True))


def _val(val: Any) -> Dataset:
    """Validation images: the val part of what a name stands for, or what was given."""
    return read_data(val, "val") if isinstance(val, (str, Path)) else read_data(val)


def _batches(dataset: Dataset, clip: CLIP, settings: TrainSettings, processes: Processes) -> TrainingBatches:
    return TrainingBatches(
        dataset,
        clip.preprocess,
        batch_size=settings.batch_size,
        seed=settings.seed,
        crop_min=settings.crop_min,
        cache_bytes=settings.cache_mb << 20,
        share=(processes.rank, processes.count),
    )


def _identity(
    dataset: Dataset, clip: CLIP, method: str, template: str, settings: TrainSettings, own: Any
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be of this run; how fast or how often it saves does not count."""
    training = asdict(settings)
    for free in ("cache_mb", "checkpoint_seconds"):
        del training[free]
    return {
        "method": method,
        "settings": asdict(own),
        "training settings": training,
        "backbone": fingerprint(clip),
        "template": template,
        "classes": list(dataset.classes),
        "images": list(dataset.keys) or len(dataset),
        "labels": list(dataset.labels),
    }
