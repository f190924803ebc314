"""A classifier as scikit-learn sees it before it is fitted: the arguments of its constructor, which say what `fit` will do.

What `fit` did is elsewhere: in an `Adapter`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewclip.clip.model import CLIP
from fewclip.clip.templates import find_template
from fewclip.data.labels import ClassNames
from fewclip.errors import SettingsError
from fewclip.methods.settings import Count, Settings
from fewclip.training.settings import TrainSettings, split_settings

if TYPE_CHECKING:
    from typing import Self

DEFAULT_BACKBONE = "icon-clip"
OPTIONS = ("method", "backbone", "shots", "template", "class_names", "device", "verbose")
"""The constructor's own arguments; the others are settings."""


@dataclass(frozen=True, kw_only=True)
class _Options(Settings):
    """The constructor's own arguments that are plain values."""

    shots: Count | None
    template: str | None
    device: str | None
    verbose: bool | int


class Estimator:
    """The constructor of `FewShotClassifier`, its parameters, and what scikit-learn asks for besides."""

    _estimator_type = "classifier"  # for scikit-learn before 1.6; later versions ask __sklearn_tags__

    def __init__(
        self,
        method: str = "mmrl",
        backbone: str | CLIP = DEFAULT_BACKBONE,
        *,
        shots: int | None = 16,
        template: str | None = None,
        class_names: ClassNames | None = None,
        device: str | None = None,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.method, self.backbone, self.shots, self.template = method, backbone, shots, template
        self.class_names, self.device, self.verbose = class_names, device, verbose
        vars(self).update(settings)  # attributes, as scikit-learn's users expect, and each can be assigned
        self._check()

    def _check(self) -> tuple[TrainSettings, Any]:
        """Refuse wrong arguments; return the settings of training and those of the method."""
        settings = split_settings(self.method, self._settings)
        _Options(shots=self.shots, template=self.template, device=self.device, verbose=self.verbose)
        if self.template is not None:
            find_template(self.template)
        if not isinstance(self.backbone, (str, Path, CLIP)):
            raise SettingsError(f"backbone is {self.backbone!r}, but it must be a name, a path or a CLIP.")
        if self.class_names is not None and (
            isinstance(self.class_names, str) or not isinstance(self.class_names, (Mapping, Sequence, np.ndarray))
        ):
            raise SettingsError(
                f"class_names is {self.class_names!r}, but it must be a list, or a dict {{label: name}}."
            )
        return settings

    def _given(self) -> dict[str, Any]:
        """What the constructor was given, or was assigned since: all that is neither private nor fitted."""
        return {name: value for name, value in vars(self).items() if not (name.startswith("_") or name.endswith("_"))}

    @property
    def _settings(self) -> dict[str, Any]:
        """Those of training and of the method."""
        return {name: value for name, value in self._given().items() if name not in OPTIONS}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All arguments of the constructor, with every setting of training and of the method as the next `fit` uses it."""
        training, own = split_settings(self.method, self._settings)
        used = {f.name: getattr(part, f.name) for part in (training, own) for f in fields(part)}
        return used | self._given()

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; takes effect with the next `fit`. If one is refused, none is changed.

        Raises:
            SettingsError, PromptError: as the constructor.
        """
        vars(self).update(vars(Estimator(**self._given() | params)))
        return self

    def __repr__(self) -> str:
        usual = Estimator.__init__.__kwdefaults__ or {}
        shown = {
            k: v for k, v in self._given().items() if not isinstance(v, CLIP) and (k not in usual or v != usual[k])
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    # What scikit-learn asks for

    def __sklearn_tags__(self) -> Any:
        """A classifier of any number of classes; images are not the two-dimensional table that is the rule there."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),  # a folder has its labels
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, string=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return "adapter_" in vars(self)

    def __sklearn_clone__(self) -> Self:
        """The same arguments, not fitted. The backbone is shared: it is frozen."""
        return type(self)(**self._given())

    def _repr_html_(self) -> str | None:
        try:
            html: str = importlib.import_module("sklearn.utils").estimator_html_repr(self)
        except ImportError:
            return None  # notebooks then show __repr__
        return html


def refuse(unsupported: Mapping[str, Any]) -> None:
    """Arguments that other estimators take."""
    for name, value in unsupported.items():
        if value is not None:
            raise SettingsError(f"{name} is not supported: every image counts the same. Leave it out.")
