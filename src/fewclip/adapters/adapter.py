"""An Adapter: what was learned, with the frozen CLIP that it was learned on. It is complete, or it does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fewclip.adapters.checks import build, check_settings
from fewclip.adapters.config import AdapterConfig, TrainingSummary, known
from fewclip.adapters.disk import save_adapter
from fewclip.adapters.hub import open_adapter
from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.clip.templates import find_template
from fewclip.data.batches import pixel_batches
from fewclip.data.names import check_names, key
from fewclip.errors import AdapterError, DataError, PromptError, SettingsError
from fewclip.methods import find, make_settings
from fewclip.methods.base import Method
from fewclip.methods.classes import ClassTexts
from fewclip.training.processes import Processes
from fewclip.training.settings import TrainSettings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

PREDICT_BATCH = 64
"""Images that go through the tower together."""


class Candidates(NamedTuple):
    """Classes to choose from, encoded: computed once, used for any number of images."""

    encoded: Any
    """The method's view of them."""
    seen: Bool[Tensor, " classes"]
    """Which of them were trained on."""


class Adapter:
    """A trained method, its frozen backbone, its classes and how it was trained.

    Attributes:
        clip: the frozen backbone.
        method: the trained method, in eval mode.
        trained_classes: names of the classes that were trained on, in the order of their labels.
        added_classes: names of the classes that were added later.
        template: the sentence with `{}` for the class name.
        numbers: the label of each class, trained ones and then added ones, where labels were whole numbers; else empty.
        training: how it was trained.
        train_keys: names of the training images within their data set.
        weights_sha256: checksum of the file that it was loaded from or last saved to; empty before.
    """

    def __init__(
        self,
        clip: CLIP,
        method: Method,
        classes: Sequence[str],
        *,
        template: str,
        added_classes: Sequence[str] = (),
        numbers: Sequence[int] = (),
        training: TrainingSummary | None = None,
        train_keys: Sequence[str] = (),
        weights_sha256: str = "",
    ) -> None:
        self.clip, self.method, self.template = clip, method.eval().requires_grad_(False), template
        self.trained_classes, self.added_classes, self.numbers = list(classes), list(added_classes), list(numbers)
        self.training = training or TrainingSummary()
        self.train_keys, self.weights_sha256 = list(train_keys), weights_sha256
        self._last: tuple[tuple[list[str], str, bool, bool], Candidates] | None = None

    @property
    def classes(self) -> list[str]:
        """All classes that it chooses from: trained ones, then added ones."""
        return self.trained_classes + self.added_classes

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(p.numel() for p in self.method.parameters())

    @property
    def takes_new(self) -> bool:
        """Whether it scores, with its settings, classes that it was not trained on."""
        return self.method.answers_new_with(self.method.settings)

    # Predicting

    @torch.no_grad()
    def scores(
        self,
        images: Any,
        classes: Sequence[str] | None = None,
        *,
        template: str | None = None,
        unseen: bool = False,
        repeats: bool = False,
    ) -> Float[Tensor, "images classes"]:
        """Logits in float32, on the CPU; their softmax is the probabilities.

        Args:
            images: one image or many: paths, PIL images, arrays (height, width, 3), tensors, encoded bytes.
            classes: the candidates, by default all of `classes`. Trained and new names may mix; their order is kept.
            template: the sentence for these classes, or a preset, by default that of training.
            unseen: score every class as a new one, as the papers do on other data sets, where a name may mean
                another thing.
            repeats: candidates may have equal names.

        Raises:
            DataError: an image can't be read, or there is no candidate.
            PromptError: a name or template that makes no prompt, or two names that make the same.
            SettingsError: a new name, where the method knows only the trained classes.
        """
        candidates = self.candidates(classes, template=template, unseen=unseen, repeats=repeats)
        batches = pixel_batches(images, self.clip.preprocess, PREDICT_BATCH)
        rows = [self.pixel_scores(pixels, candidates) for pixels in batches]
        return torch.cat(rows) if rows else torch.empty(0, len(candidates.seen))

    @torch.no_grad()
    def pixel_scores(
        self, pixels: Float[Tensor, "batch 3 size size"], candidates: Candidates
    ) -> Float[Tensor, "batch classes"]:
        """The same for one batch of normalised pixels and what `candidates` returned."""
        return self.method.scores(pixels.to(self.clip.device), *candidates).float().cpu()

    @torch.no_grad()
    def candidates(
        self,
        classes: Sequence[str] | None = None,
        *,
        template: str | None = None,
        unseen: bool = False,
        repeats: bool = False,
    ) -> Candidates:
        """The classes to choose from, encoded; for those that decode images themselves, such as a server. Arguments and
        errors as `scores`."""
        names = self.classes if classes is None else [classes] if isinstance(classes, str) else list(classes)
        sentence = self.template if template is None else find_template(template)
        asked, last = (names, sentence, unseen, repeats), self._last
        if last is not None and last[0] == asked:
            return last[1]
        if not names:
            raise DataError("classes is empty: give at least one class name.")
        check_names(names, where="classes", repeats=repeats or names == self.classes)
        # On another data set a name may mean another thing, so with `unseen` none counts as trained.
        trained = [] if unseen else self.trained_classes
        keys = {key(name) for name in trained}
        seen = torch.tensor([key(name) in keys for name in names])
        self._check_new([name for name in names if key(name) not in keys])
        texts = ClassTexts(names, sentence, self.clip.tokenizer, self.clip.config.context_length, trained=trained)
        found = Candidates(self.method.encode_classes(texts), seen.to(self.clip.device))
        self._last = (asked, found)
        return found

    # Changing

    def add_classes(self, names: Sequence[str], numbers: Sequence[int] = ()) -> Adapter:
        """Add candidate classes, recognised from their names only; returns the adapter itself.

        Where labels are whole numbers, `numbers` are those of the new classes, by default the next free ones.

        Raises:
            PromptError: a name that makes no prompt, or the name or number of a class that is there already. No class is
                added then.
            DataError: not one label for each class.
            SettingsError: the method does not score classes that it was not trained on.
        """
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            return self
        self._check_new(names)
        check_names(names, where="the classes", known=self.classes)
        self.candidates(names)  # a name that makes no prompt is refused before any is added
        if self.numbers:
            free = max(self.numbers) + 1
            numbers = [int(number) for number in (numbers if len(numbers) else range(free, free + len(names)))]
            if len(numbers) != len(names):
                raise DataError(
                    f"{len(names)} classes were given with {len(numbers)} labels: give one label per class."
                )
            for number in numbers:
                if (self.numbers + numbers).count(number) > 1:
                    raise PromptError(f"The label {number} already belongs to another class: give a different one.")
            self.numbers = self.numbers + numbers
        self.added_classes = self.added_classes + names
        return self

    @torch.random.fork_rng(devices=[])  # making a method draws numbers: not the caller's
    def with_settings(self, **settings: Any) -> Adapter:
        """An adapter with the same trained tensors and other settings of the method, such as another β.

        Raises:
            SettingsError: a setting that the method doesn't have, or that does not fit these tensors.
        """
        name = self.method.name
        method = type(self.method)(
            self.clip, make_settings(name, asdict(self.method.settings) | settings), len(self.trained_classes)
        )
        try:
            method.load_state_dict(self.method.state_dict())
        except RuntimeError as error:
            raise SettingsError(
                f"The trained tensors of {name} do not fit the settings {settings}: fit again."
            ) from error
        other = copy(self)
        other.method = method.to(self.clip.device).eval().requires_grad_(False)
        other.weights_sha256, other._last = "", None
        return other

    # Keeping

    @property
    def config(self) -> AdapterConfig:
        """The content of its adapter_config.json."""
        return AdapterConfig(
            method=self.method.name,
            settings=asdict(self.method.settings),
            backbone=self.clip.name or "unnamed",
            backbone_fingerprint=fingerprint(self.clip),
            classes=self.trained_classes,
            added_classes=self.added_classes,
            template=self.template,
            training=self.training,
            train_keys=self.train_keys,
            labels=self.numbers,
            weights_sha256=self.weights_sha256,
        )

    def save(self, folder: str | Path) -> None:
        """Write trained tensors, configuration and model card into a folder.

        Raises:
            OutputError: the place can't be written to.
        """
        self.weights_sha256 = save_adapter(folder, self.config, dict(self.method.state_dict()))

    @classmethod
    @torch.random.fork_rng(devices=[])
    def load(
        cls,
        name: str | Path,
        *,
        backbone: str | CLIP | None = None,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Adapter:
        """Read a folder, or `user/name` (also `user/name@revision`) on the Hugging Face hub.

        A local folder takes precedence over a repository of the same name. `backbone`: where its backbone is now, if not under
        the name it had. `revision` is a branch, a tag or a commit; `token` by default what huggingface_hub finds
        (HF_TOKEN, `hf auth login`). Without a network the hub's cache is used. Settings of a newer version that this one
        doesn't know are left out.

        Raises:
            AdapterError: no adapter, one that can't be fetched, a damaged one, or one of another backbone.
            BackboneError: the backbone can't be loaded.
        """
        _, config, tensors = open_adapter(name, revision, token, own_backbone=backbone is None)
        kind = find(config.method)
        try:
            check_settings(TrainSettings, trained := known(TrainSettings, config.training.settings))
            check_settings(kind.Settings, settings := known(kind.Settings, config.settings))
        except AdapterError as error:
            raise _unusable(name, error) from None
        clip = frozen(config.backbone if backbone is None else backbone, Processes(device).device)
        actual = fingerprint(clip)
        if actual != config.backbone_fingerprint:
            raise AdapterError(
                f"{name} was trained on the backbone {config.backbone!r} (fingerprint {config.backbone_fingerprint[:12]}), but "
                f"{clip.name or 'the one given'} is a different one (fingerprint {actual[:12]}): load it with the backbone "
                "that it was trained on."
            )
        try:
            method = build(kind, clip, make_settings(config.method, settings), tensors, len(config.classes))
        except (AdapterError, SettingsError) as error:
            raise _unusable(name, error) from error
        return cls(
            clip,
            method.to(clip.device),
            config.classes,
            template=config.template,
            added_classes=config.added_classes,
            numbers=config.labels,
            training=replace(config.training, settings=trained),
            train_keys=config.train_keys,
            weights_sha256=config.weights_sha256,
        )

    def _check_new(self, names: Sequence[str]) -> None:
        if names and not self.takes_new:
            raise SettingsError(
                f"{self.method.name} knows only the classes that it was trained on, not {names[0]!r}: fit with images of it, "
                "or use a method that scores new names, such as mmrl."
            )


def frozen(backbone: str | CLIP, device: torch.device) -> CLIP:
    """A backbone by its name, or as it is: frozen, in eval mode, on a device.

    Raises:
        BackboneError: it can't be loaded.
    """
    clip = backbone if isinstance(backbone, CLIP) else CLIP.from_pretrained(backbone)
    return clip.to(device).requires_grad_(False).eval()


def _unusable(name: str | Path, error: Exception) -> AdapterError:
    return AdapterError(f"{name} can't be used ({error}): copy the adapter again, or fit again.")
