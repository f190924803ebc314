"""FewShotClassifier: fit, predict, predict_proba, score, save, load."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import keep, revive
from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.clip.templates import find_template
from fewclip.data.batches import DatasetExamples, TrainingBatches, pixel_batches
from fewclip.data.dataset import Dataset
from fewclip.data.names import check_names, key, match
from fewclip.data.read import Data, read_data
from fewclip.data.validation import held_out
from fewclip.errors import DataError, FewclipError, SettingsError
from fewclip.methods import check_chooses, find, make_settings
from fewclip.methods.classes import prompts_for
from fewclip.training.checkpoint import Checkpoint
from fewclip.training.loop import train
from fewclip.training.processes import Processes
from fewclip.training.progress import ProgressBar
from fewclip.training.settings import TrainSettings, published_training

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
        classes_: names of all classes that `predict` chooses from: trained ones, then added ones. This and all that
            follows is there after `fit` or `load`.
        trained_classes_: those that were trained on, in the order of their labels.
        added_classes_: those that were added by name.
        method_: the trained method.
        clip_: its backbone.
        template_: the template in use.
        history_: one dict an epoch: epoch, lr, loss.
        seconds_: time of training.
        training_: a summary for the adapter file.
        train_keys_: names of the training images within their data set.
        weights_sha256_: checksum of the file that it was loaded from; empty after `fit`.

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
        self._encoded: tuple[Any, Any, Tensor] | None = None
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
        kind = find(self.method)
        if val is not None:
            check_chooses(self.method)
        dataset = read_data(_paired(data, labels))
        if len(dataset.classes) < 2:
            raise DataError(
                f"{dataset.name} has the single class {dataset.classes[0]!r}: a classifier needs at least two, each in "
                "a folder of its own."
            )
        check_names(dataset.classes, where=dataset.name, repeats=dataset.published)
        if self.shots is not None and self.shots < 1:
            raise SettingsError(f"shots is {self.shots}, but it must be at least 1, or None for all images.")
        if self.shots is not None:
            dataset = dataset.few_shot(self.shots, settings.seed)
        processes = Processes(self.device)
        self.load_backbone(processes.device)
        self.template_ = find_template(self.template or dataset.template or "photo")
        self.trained_classes_ = list(dataset.classes)
        self.added_classes_: list[str] = []

        with torch.random.fork_rng(devices=[processes.device] if processes.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            self.method_ = kind(self.clip_, own).to(processes.device)
            self.history_: list[dict[str, float]] = []
            prompts = self._prompts(dataset.classes)
            started = time.monotonic()
            self.method_.prepare(prompts)
            checks = None if val is None else self._val_examples(val, dataset, settings)
            self.method_.memorise(self._examples(dataset, settings), checks)
            val_images = 0 if checks is None else len(checks.labels)
            seconds = time.monotonic() - started
            if self.method_.parameter_count():
                batches = self._batches(dataset, settings, processes)
                most = max(Counter(dataset.labels).values())
                settings = settings.with_epochs(self.shots or most, len(batches))
                resume = None
                if checkpoint is not None:
                    resume = Checkpoint(Path(checkpoint), self._identity(dataset, settings, own), overwrite)
                epochs = settings.epochs * self.method_.stages
                total = epochs * len(batches) * batches.batch_size
                with ProgressBar(self.method, epochs, total, shown=self.verbose and processes.main) as bar:
                    done = train(self.method_, batches, settings, processes, checkpoint=resume, report=bar.report)
                self.history_, seconds = done.history, seconds + done.seconds
        self.method_.eval().requires_grad_(False)
        self.seconds_ = seconds
        self.weights_sha256_ = ""
        self.train_keys_ = list(dataset.keys)
        self.training_: dict[str, Any] = {
            "data": dataset.name,
            "shots": self.shots,
            "images": len(dataset),
            "val_images": val_images,
            "chosen": self.method_.chosen,
            "seconds": round(seconds, 3),
            "history": self.history_,
            "settings": asdict(settings),
        }
        self._forget()
        processes.wait()
        return self

    def _batches(self, dataset: Dataset, settings: TrainSettings, processes: Processes) -> TrainingBatches:
        assert self.clip_.preprocess is not None
        return TrainingBatches(
            dataset,
            self.clip_.preprocess,
            batch_size=settings.batch_size,
            seed=settings.seed,
            crop_min=settings.crop_min,
            cache_bytes=settings.cache_mb << 20,
            share=(processes.rank, processes.count),
        )

    def _examples(self, dataset: Dataset, settings: TrainSettings) -> DatasetExamples:
        assert self.clip_.preprocess is not None
        return DatasetExamples(dataset, self.clip_.preprocess, seed=settings.seed, crop_min=settings.crop_min)

    def _val_examples(self, val: Any, dataset: Dataset, settings: TrainSettings) -> DatasetExamples:
        """Validation images, labelled as the training classes are."""
        images = read_data(val, "val") if isinstance(val, (str, Path)) else read_data(val)
        return self._examples(held_out(images, dataset), settings)

    def _identity(self, dataset: Dataset, settings: TrainSettings, own: Any) -> dict[str, Any]:
        """What must be equal for a checkpoint to be of this run; how fast or how often it saves does not count."""
        training = asdict(settings)
        for free in ("cache_mb", "checkpoint_seconds"):
            del training[free]
        return {
            "method": self.method,
            "settings": asdict(own),
            "training settings": training,
            "backbone": fingerprint(self.clip_),
            "template": self.template_,
            "classes": list(dataset.classes),
            "images": list(dataset.keys) or len(dataset),
            "labels": list(dataset.labels),
        }

    def add_classes(self, names: Sequence[str]) -> FewShotClassifier:
        """Let `predict` choose from further classes, known by their names alone.

        Raises:
            PromptError: a name that makes no prompt, or that of a class that is there already.
            SettingsError: the method says nothing about classes it was not trained on.
        """
        self._check_fitted()
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            return self
        self._check_new(names)
        check_names(names, where="the classes", known=self.classes_)
        self._prompts(names)
        self.added_classes_ += names
        self._forget()
        return self

    # Predicting

    @property
    def classes_(self) -> list[str]:
        """All classes that `predict` chooses from."""
        self._check_fitted()
        return self.trained_classes_ + self.added_classes_

    def predict_proba(self, images: Any, classes: Sequence[str] | None = None) -> np.ndarray:
        """Probabilities (images, classes), float32, each row a distribution.

        Args:
            images: one image or many: paths, PIL images, arrays (height, width, 3), tensors, encoded bytes.
            classes: the candidates, by default all of `classes_`. Trained names may mix with new ones; the order is kept.
                MMRL scores trained ones by both features and new ones by the class feature.

        Raises:
            FewclipError: nothing has been learnt yet.
            DataError: an image can't be read, or there is no candidate.
            PromptError: a name that makes no prompt, or two that make the same.
            SettingsError: a new name, where the method knows trained classes alone.
        """
        return torch.softmax(self.scores(images, classes), dim=-1).numpy()

    def predict(self, images: Any, classes: Sequence[str] | None = None) -> np.ndarray:
        """The most probable class name of each image: (images,), an array of str. Arguments and errors as `predict_proba`."""
        names = np.array(self.classes_ if classes is None else list(classes), dtype=object)
        return names[self.scores(images, classes).argmax(dim=-1).numpy()]

    @torch.no_grad()
    def scores(
        self,
        images: Any,
        classes: Sequence[str] | None = None,
        *,
        template: str | None = None,
        unseen: bool = False,
        repeats: bool = False,
    ) -> Tensor:
        """Logits (images, classes) in float32, on the CPU.

        `template`: the sentence for these classes, by default that of training. `unseen` scores every class as a new
        one, as the papers do on other data sets, where a name may mean another thing. With `repeats` candidates may
        have equal names. Errors as `predict_proba`.
        """
        self._check_fitted()
        names = self.classes_ if classes is None else list(classes)
        candidates = self._encode(names, template or self.template_, unseen, repeats)
        assert self.clip_.preprocess is not None
        batches = pixel_batches(images, self.clip_.preprocess, PREDICT_BATCH)
        rows = [self.pixel_scores(pixels, candidates) for pixels in batches]
        return torch.cat(rows) if rows else torch.empty(0, len(names))

    @torch.no_grad()
    def pixel_scores(self, pixels: Tensor, candidates: tuple[Any, Tensor]) -> Tensor:
        """The same for one batch of normalised pixels (batch, 3, size, size) and what `candidates` gave."""
        return self.method_.scores(pixels.to(self.clip_.device), *candidates).float().cpu()

    @torch.no_grad()
    def candidates(self, classes: Sequence[str] | None = None) -> tuple[Any, Tensor]:
        """What `pixel_scores` takes besides pixels: the method's view of the classes, and which of them were trained.

        For those that decode images themselves, such as a server. By default all of `classes_`.
        """
        self._check_fitted()
        return self._encode(self.classes_ if classes is None else list(classes), self.template_, False, False)

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
        return float((self.scores(dataset.images).argmax(-1) == truth).float().mean())

    def _encode(self, names: list[str], template: str, unseen: bool, repeats: bool) -> tuple[Any, Tensor]:
        """The method's view of candidate classes, kept until the question changes, and which of them were trained."""
        if not names:
            raise DataError("classes is empty: give at least one class name.")
        asked = (names, template, unseen)
        if self._encoded is None or self._encoded[0] != asked:
            check_names(names, where="classes", repeats=repeats or names == self.classes_)
            trained = set() if unseen else {key(name) for name in self.trained_classes_}
            seen = torch.tensor([key(name) in trained for name in names])
            self._check_new([name for name, known in zip(names, seen.tolist(), strict=True) if not known])
            encoded = self.method_.encode_classes(self._prompts(names, template, unseen))
            self._encoded = (asked, encoded, seen.to(self.clip_.device))
        return self._encoded[1], self._encoded[2]

    def with_settings(self, **settings: Any) -> FewShotClassifier:
        """The same trained tensors under other settings of the method, such as another β or way to score.

        Raises:
            SettingsError: a setting that the method doesn't have, or under which these tensors have no place.
        """
        self._check_fitted()
        own = make_settings(self.method, asdict(self.method_.settings) | settings)
        method = find(self.method)(self.clip_, own)
        try:
            method.load_state_dict(self.method_.state_dict())
        except RuntimeError as error:
            raise SettingsError(f"What {self.method} learnt does not fit the settings {settings}: fit anew.") from error
        other = copy(self)
        other.settings = self.settings | settings
        other.method_ = method.to(self.clip_.device).eval().requires_grad_(False)
        other._forget()
        return other

    # Keeping

    def save(self, folder: str | Path) -> None:
        """Write the adapter: trained tensors, configuration, model card.

        Raises:
            OutputError: the place can't be written to.
        """
        self._check_fitted()
        keep(self, folder)

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
        """Read an adapter: a folder, or `user/name` (also `user/name@revision`) on the Hugging Face hub.

        A local folder goes before a repository of the same name. `backbone` says where its backbone is now, if not under
        the name it had. `revision` is a branch, a tag or a commit; `token` by default what huggingface_hub finds
        (HF_TOKEN, `hf auth login`). Without a network the hub's cache is used.

        Raises:
            AdapterError: no adapter, one that can't be fetched, a damaged one, or one of another backbone.
            BackboneError: the backbone can't be loaded.
        """
        return revive(cls, folder, backbone, device, revision, token)

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
        results: str | Path | None = None,
        train_names: bool = True,
    ) -> str:
        """Save the adapter with its model card in a repository of the Hugging Face hub; returns the commit's address.

        `repo_id` is user/name, made if there is none; `private` is for a new one. `revision` is a branch. The card states
        `license` (an identifier such as mit) and `results`, a file of `fewclip bench` or `fewclip eval --json`. Without
        `train_names` the names of the training images are left out.

        Raises:
            OutputError: no access, no network, or a name or a licence that the hub doesn't take.
            DataError: results that are not of this adapter.
        """
        self._check_fitted()
        from fewclip.adapters.push import push

        return push(
            self,
            repo_id,
            {"licence": license, "results": results, "train_names": train_names},
            {
                "private": private,
                "token": token,
                "revision": revision,
                "message": commit_message,
                "create_pr": create_pr,
            },
        )

    # Inside

    def load_backbone(self, device: torch.device) -> None:
        """`clip_`: the backbone, frozen, on a device. `fit` and `load` call it.

        Raises:
            BackboneError: it can't be loaded.
        """
        clip = self.backbone if isinstance(self.backbone, CLIP) else CLIP.from_pretrained(self.backbone)
        if clip.preprocess is None:
            from fewclip.clip.preprocess import Preprocess

            clip.preprocess = Preprocess(clip.config.image_size)
        self.clip_ = clip.to(device).requires_grad_(False).eval()

    def _prompts(self, names: Sequence[str], template: str | None = None, unseen: bool = False) -> Prompts:
        return prompts_for(self.method_, names, template or self.template_, () if unseen else self.trained_classes_)

    def _check_fitted(self) -> None:
        if not hasattr(self, "method_"):
            raise FewclipError("This classifier has learnt nothing yet: call fit first, or load an adapter.")

    def _check_new(self, names: Sequence[str]) -> None:
        if names and not self.method_.answers_new:
            raise SettingsError(
                f"{self.method} knows only the classes that it was trained on, not {names[0]!r}: fit with images of it, "
                "or use a method that scores new names, such as mmrl."
            )

    def _forget(self) -> None:
        self._encoded = None


def _paired(data: Any, labels: Sequence[str] | None) -> Any:
    if labels is None:
        return data
    images = list(data)
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images were given with {len(labels)} labels: expected one label an image.")
    return list(zip(images, [str(label) for label in labels], strict=True))
