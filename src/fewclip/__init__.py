"""fewclip: adapt a frozen CLIP to your images from a few labelled examples per class.

Public names; each is imported when it is first used, so that `import fewclip` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fewclip.errors import FewclipError
from fewclip.version import __version__

if TYPE_CHECKING:
    from fewclip.classifier import FewShotClassifier
    from fewclip.clip.model import CLIP
    from fewclip.methods import METHODS

_HOMES = {"FewShotClassifier": "fewclip.classifier", "CLIP": "fewclip.clip.model", "METHODS": "fewclip.methods"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fewclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = ["CLIP", "METHODS", "FewShotClassifier", "FewclipError", "__version__"]
