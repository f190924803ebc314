"""How much one request may ask for, and how it is refused when it asks for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from fewclip.clip.decode import MAX_PIXELS, read_image
from fewclip.clip.preprocess import LONGEST_SIDES, Preprocess
from fewclip.data.names import check_names, new_names
from fewclip.errors import DataError, FewclipError, SettingsError, TooLargeError
from fewclip.methods.settings import Count, Positive, Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that are decoded for clients: fewer than for your own files."""


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What one request, and all of them together, may use."""

    max_images: Count = 16
    """Images per request."""
    max_bytes: Count = 10_000_000
    """Bytes of one image, as it was sent."""
    max_body: Count = 40_000_000
    """Bytes of a whole request."""
    max_pixels: Count = 40_000_000
    """Pixels of one image."""
    max_new_classes: Count = 100
    """Class names per request that the server doesn't know."""
    max_classes: Count = 2000
    """Classes that the server knows, including those that POST /classes adds."""
    max_requests: Count = 64
    """Requests being read or answered at one time; further ones get the status 503."""
    queue: Count = 256
    """Images being decoded or waiting for the model at one time; further ones get the status 503."""
    read_seconds: Positive = 20.0
    """Time for the head of a request to arrive, for its body, and for the answer to be read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_images > self.queue:
            raise SettingsError(
                f"max_images is {self.max_images} and queue {self.queue}: a full request must fit into the queue."
            )
        if self.max_pixels > MAX_PIXELS:
            raise SettingsError(f"max_pixels is {self.max_pixels:,}; at most {MAX_PIXELS:,} are ever decoded.")


class Refused(HTTPException):
    """A request that gets a 4xx or 503, and why. `images`: what is wrong with which of its images."""

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        headers: Mapping[str, str] | None = None,
        images: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(status, str(FewclipError(reason)), headers)
        self.images = list(images)


def busy(reason: str, seconds: float = 1.0) -> Refused:
    """503: the client may try again after this many seconds."""
    return Refused(503, reason, headers={"Retry-After": str(max(1, round(seconds)))})


def check_class_names(names: Sequence[str], known: Sequence[str], limits: Limits) -> None:
    """Refuse too many names, and those that are not class names. Whether two make the same prompt is checked where prompts are
    made.

    Raises:
        Refused: 422, too many. PromptError: as `check_names`.
    """
    if len(names) > limits.max_classes:
        raise Refused(
            422, f"{len(names)} classes were sent, but at most {limits.max_classes} are allowed (--max-classes)."
        )
    check_names(names, where="the request", repeats=True)
    new = len(new_names(names, known))
    if new > limits.max_new_classes:
        raise Refused(
            422,
            f"{new} class names are new, but at most {limits.max_new_classes} per request are allowed (--max-new-classes).",
        )


def to_pixels(data: bytes, preprocess: Preprocess, limits: Limits) -> Any:
    """Normalised pixels (3, size, size) of an image that a client sent.

    Raises:
        Refused: 413 too large, 422 it can't be read.
    """
    if len(data) > limits.max_bytes:
        raise Refused(413, f"The image has {len(data):,} bytes, more than the {limits.max_bytes:,} allowed.")
    try:
        image = read_image(data, max_pixels=limits.max_pixels, formats=FORMATS)
        if max(image.size) > LONGEST_SIDES * min(image.size):
            raise Refused(
                413,
                f"The image has {image.width} × {image.height} pixels, but one side may be at most {LONGEST_SIDES} times the "
                "other.",
            )
        return preprocess(image)
    except DataError as error:
        raise Refused(413 if isinstance(error, TooLargeError) else 422, str(error)) from error
    except MemoryError as error:
        raise Refused(413, "The image needs more memory than there is.") from error
