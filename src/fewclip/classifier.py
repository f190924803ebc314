"""FewShotClassifier: fit, predict, predict_proba, score, save, load. scikit-learn's face on an `Adapter`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import Adapter, frozen
from fewclip.adapters.config import TrainingSummary
from fewclip.clip.model import CLIP
from fewclip.clip.templates import find_template
from fewclip.data.dataset import Dataset
from fewclip.data.labels import LabelsLike, brief, class_name, read_label
from fewclip.data.names import check_names, key, match
from fewclip.data.read import Data, paired, read_data
from fewclip.data.validation import held_out
from fewclip.errors import DataError, NotFittedError
from fewclip.methods import check_chooses
from fewclip.training.estimator import DEFAULT_BACKBONE as DEFAULT_BACKBONE
from fewclip.training.estimator import Estimator, refuse
from fewclip.training.fit import fit
from fewclip.training.processes import Processes

if TYPE_CHECKING:
    from jaxtyping import Float


class FewShotClassifier(Estimator):
    """A frozen CLIP adapted to labelled images, with scikit-learn's interface.

    Args:
        method: a name in `fewclip.methods.METHODS`.
        backbone: what `CLIP.from_pretrained` takes, or a CLIP; by default `icon-clip`, which recognises only drawings.
        shots: images per class to train on; None takes all.
        template: a sentence with `{}` where the class name goes, or a preset of `fewclip.clip.templates`; by default the
            data set's own, else "a photo of a {}.".
        class_names: names of the classes where labels are whole numbers: label i is `class_names[i]` (a sequence or a
            dict). By default the prompts hold the numbers, which tell CLIP nothing.
        device: where to compute; by default a GPU if there is one.
        verbose: show a progress bar.
        **settings: any field of `TrainSettings` (epochs, batch_size, lr, seed, …) or of the method's own settings
            (for MMRL: rep_tokens, alpha, reg_weight, …).

    Attributes:
        adapter_: what was learned, after `fit` or `load`: an `Adapter`.
        classes_: labels of all classes that `predict` chooses from: an array of trained ones, sorted if they were given
            as labels, then of added ones. Text, or int64 where labels were whole numbers.

    Raises:
        SettingsError: an unknown method or setting, or a value of another type, not among the choices, or out of its range.
        PromptError: a template without a place for the name.
    """

    # Learning

    def fit(
        self,
        data: Data | Sequence[Any],
        labels: LabelsLike | None = None,
        *,
        val: Data | Sequence[Any] | None = None,
        checkpoint: str | Path | None = None,
        overwrite: bool = False,
        **unsupported: Any,
    ) -> FewShotClassifier:
        """Train, and return the classifier itself. Whatever stops it (a mistake, a damaged image, Ctrl-C) leaves the
        classifier as it was: not fitted, or with what it had learned before.

        Args:
            data: a folder with one folder per class, a CSV file, the name of an embedded or published data set, a `Dataset`,
                pairs (image, label), or images.
            labels: the label of each image, where `data` is only images: all text (class names) or all whole numbers.
            val: labelled images of the same classes, for methods that choose settings by them (linear-probe: C; tip-adapter
                and tip-adapter-f: α and β); the others refuse it. Files that are trained on are left out.
            checkpoint: a file where the state of the run is kept; a run that was interrupted resumes from it.
            overwrite: replace a checkpoint of another run, which is refused otherwise.

        Raises:
            DataError: unusable data or labels, a single class, fewer images than shots, an unreadable image.
            PromptError: class names that make no prompts, or the same prompt.
            BackboneError: the backbone can't be loaded.
            SettingsError: settings that don't fit the backbone, or an argument that is not supported (sample_weight).
            TrainingError: a loss that is not finite.
            OutputError: the checkpoint can't be written.
        """
        refuse(unsupported)
        settings, method_settings = self._check()  # again, since attributes may have been assigned
        shots = None if self.shots is None else int(self.shots)  # a number of numpy can't be saved
        processes = Processes(self.device)
        if val is not None:
            check_chooses(self.method)
        dataset = self._picked(self._read(data, labels), shots, settings.seed)
        checks = None if val is None else held_out(self._read(val, None, "val"), dataset)
        clip = frozen(self.backbone, processes.device)
        template = find_template(self.template or dataset.template or "photo")
        trained = fit(
            self.method,
            clip,
            dataset,
            template,
            settings,
            method_settings,
            processes,
            shots=shots,
            val=checks,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            overwrite=overwrite,
            verbose=bool(self.verbose),
        )
        processes.wait()
        summary = TrainingSummary(
            data=dataset.name,
            shots=shots,
            images=len(dataset),
            val_images=0 if checks is None else len(checks),
            chosen=trained.method.chosen,
            seconds=round(trained.seconds, 3),
            history=trained.history,
            settings=asdict(trained.settings),
        )
        # The only line that changes the classifier.
        self.adapter_ = Adapter(
            clip,
            trained.method,
            dataset.classes,
            numbers=dataset.numbers,
            template=template,
            training=summary,
            train_keys=dataset.keys,
        )
        return self

    def _read(self, data: Any, labels: Any, split: str = "train") -> Dataset:
        """Labelled images; a name or a path stands for that split of it."""
        if labels is None:
            return read_data(data, split if isinstance(data, (str, Path)) else "train", class_names=self.class_names)
        return read_data(paired(data, labels), class_names=self.class_names)

    def _picked(self, dataset: Dataset, shots: int | None, seed: int) -> Dataset:
        """The images to train on."""
        if len(dataset.classes) < 2:
            raise DataError(f"{dataset.name} has only one class, {dataset.classes[0]!r}: expected at least two.")
        check_names(dataset.classes, where=dataset.name, repeats=dataset.published)
        return dataset if shots is None else dataset.few_shot(shots, seed)

    # Fitted state

    def _fitted(self) -> Adapter:
        if not hasattr(self, "adapter_"):
            raise NotFittedError("This classifier is not fitted yet: call fit first, or load an adapter.")
        return self.adapter_

    @property
    def classes_(self) -> np.ndarray:
        adapter = self._fitted()
        return np.array(adapter.numbers, np.int64) if adapter.numbers else np.array(adapter.classes)

    def add_classes(self, names: LabelsLike) -> FewShotClassifier:
        """Add candidate classes, recognised from their names only.

        Where labels are whole numbers, a further class is a number (named by `class_names`), or a name, which gets the
        next free number.

        Raises:
            PromptError: a name that makes no prompt, or the name or number of a class that is there already. No class is
                added then.
            DataError: neither text nor a whole number.
            SettingsError: the method does not score classes that it was not trained on.
        """
        labels = self._labels(names)
        numbers = [label for label in labels if not isinstance(label, str)]
        if numbers and len(numbers) < len(labels):
            raise DataError("The new classes mix names and whole numbers: add one kind after the other.")
        self._fitted().add_classes(self._names(labels), numbers)
        return self

    def _labels(self, given: Any) -> list[str | int]:
        """Classes as the caller names them."""
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
            raise DataError(f"The classes are {brief(given)}: expected a list of names or of whole numbers.")
        labels = [read_label(label, f"Class {place}") for place, label in enumerate(given)]
        numbers = [label for label in labels if not isinstance(label, str)]
        if numbers and not self._fitted().numbers:
            raise DataError(f"A class is given as {numbers[0]}, but the labels in training were text: give names.")
        return labels

    def _names(self, labels: Sequence[str | int]) -> list[str]:
        """The names that the adapter has for them."""
        known: dict[str | int, str] = dict(zip(self._fitted().numbers, self._fitted().classes, strict=False))
        return [known.get(label) or class_name(label, self.class_names) for label in labels]

    # Predicting

    def predict_proba(self, images: Any, classes: LabelsLike | None = None) -> np.ndarray:
        """Probabilities (images, classes), float32; each row sums to 1.

        Args:
            images: one image or many: paths, PIL images, arrays (height, width, 3), tensors, encoded bytes.
            classes: the candidates, by default all of `classes_`. Trained classes may mix with new ones, which are recognised
                from their names only; the order is kept. MMRL scores trained ones by both features and new ones by the
                class feature.

        Raises:
            NotFittedError: it is not fitted yet.
            DataError: an image can't be read, or there is no candidate.
            PromptError: a name that makes no prompt, or two that make the same.
            SettingsError: a new name, where the method scores only trained classes.
        """
        return torch.softmax(self.scores(images, classes), dim=-1).numpy()

    def predict(self, images: Any, classes: LabelsLike | None = None) -> np.ndarray:
        """The label of the most probable class of each image: (images,), as `classes_` or `classes` has it. Arguments and
        errors as `predict_proba`."""
        if classes is None:
            labels = self.classes_
        else:
            classes = self._labels(classes)
            labels = np.array(classes, dtype=None if len({type(label) for label in classes}) == 1 else object)
        return labels[self.scores(images, classes).argmax(dim=-1).numpy()]

    def scores(self, images: Any, classes: LabelsLike | None = None) -> Float[Tensor, "images classes"]:
        """Logits in float32, on the CPU. Arguments and errors as `predict_proba`."""
        return self._fitted().scores(images, None if classes is None else self._names(self._labels(classes)))

    def score(self, data: Data | Sequence[Any], labels: LabelsLike | None = None, **unsupported: Any) -> float:
        """Accuracy as a share, 0 to 1, on whatever `fit` takes; the candidates are `classes_`.

        Images that were trained on count too; `fewclip.bench.evaluation` leaves them out.

        Raises:
            NotFittedError: it is not fitted yet.
            DataError: unusable data, or a class that this classifier doesn't know.
            SettingsError: an argument that is not supported (sample_weight).
        """
        refuse(unsupported)
        adapter, dataset = self._fitted(), self._read(data, labels, "test")
        places = match([key(name) for name in dataset.classes], [key(name) for name in adapter.classes])
        for name, place in zip(dataset.classes, places, strict=True):
            if place is None:
                raise DataError(
                    f"{dataset.name} has the class {name!r}, which this classifier doesn't know: add_classes([{name!r}])."
                )
        truth = torch.tensor([places[label] for label in dataset.labels])
        return float((adapter.scores(dataset.images).argmax(-1) == truth).double().mean())

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
        """A fitted classifier from an adapter; arguments and errors as `Adapter.load`."""
        return cls.of(Adapter.load(folder, backbone=backbone, device=device, revision=revision, token=token), device)

    @classmethod
    def of(cls, adapter: Adapter, device: str | None = None) -> FewShotClassifier:
        """A fitted classifier from an adapter; its next `fit` trains as the adapter was trained."""
        name, names = adapter.method.name, dict(zip(adapter.numbers, adapter.classes, strict=False))
        usual = cls(name).get_params()
        settings = adapter.training.settings | asdict(adapter.method.settings)
        classifier = cls(
            name,
            adapter.clip.name or adapter.clip,
            shots=adapter.training.shots,
            template=adapter.template,
            class_names=names if any(str(number) != name for number, name in names.items()) else None,
            device=device,
            **{setting: value for setting, value in settings.items() if value != usual[setting]},
        )
        classifier.adapter_ = adapter
        return classifier

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save the adapter with its model card in a repository of the Hugging Face hub, `user/name`; returns the commit's
        address. Options and errors as `fewclip.adapters.push.push`: private, license, results, revision, …"""
        from fewclip.adapters.push import push

        return push(self._fitted(), repo_id, **options)
