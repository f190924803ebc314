"""What requests contain: images as files of a form or as base64 in JSON, class names, how many classes to return."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from fewclip.data.names import LONGEST
from fewclip.serve.limits import Limits, Refused

Name = Annotated[str, Field(min_length=1, max_length=LONGEST)]
Top = Annotated[int, Field(ge=1, le=100_000, strict=True)]
TOP = 5
MAX_VALUES = 100_000
"""Commas and brackets in a body of JSON: many small values would take far more memory than they have bytes."""


class PredictJSON(BaseModel):
    """Images as base64."""

    model_config = ConfigDict(extra="forbid")
    images: Annotated[list[str], FailFast(), Field(min_length=1, description="image files, each as base64")]
    classes: Annotated[
        list[Name] | None, Field(min_length=1, description="candidates, known or new; by default the known classes")
    ] = None
    top: Annotated[Top, Field(description="how many classes to return per image")] = TOP


class PredictForm(BaseModel):
    """Images as files. Only describes the form, which `read_predict` reads field by field."""

    model_config = ConfigDict(extra="forbid")
    images: Annotated[list[bytes], Field(min_length=1, description="image files")]
    classes: Annotated[list[Name], Field(description="candidates, one per field; by default the known classes")] = []
    top: Annotated[Top, Field(description="how many classes to return per image")] = TOP


class ClassesJSON(BaseModel):
    """Names to add."""

    model_config = ConfigDict(extra="forbid")
    classes: Annotated[list[Name], FailFast(), Field(min_length=1, description="names of new classes")]


class Ranked(BaseModel):
    name: Annotated[str, Field(description="name of the class")]
    probability: Annotated[float, Field(ge=0, le=1.0001, description="among all candidates")]
    kind: Annotated[str, Field(pattern="^(trained|added|new)$", description="trained, added by POST /classes, or new")]


class Prediction(BaseModel):
    image: Annotated[str | None, Field(description="name of the file, if it had one")]
    classes: Annotated[list[Ranked], Field(description="most probable first")]


class Predictions(BaseModel):
    predictions: Annotated[list[Prediction], Field(description="one per image, in the order of the images")]


class Classes(BaseModel):
    trained: Annotated[list[str], Field(description="classes that were trained on")]
    added: Annotated[list[str], Field(description="classes that were added by name")]
    takes_new: Annotated[bool, Field(description="whether the method scores classes by name")]
    method: str
    backbone: str


class BadImage(BaseModel):
    index: int
    image: str | None
    error: str


class Problem(BaseModel):
    error: Annotated[str, Field(description="what is wrong, in one sentence")]
    images: Annotated[list[BadImage], Field(description="the images that are wrong, if any")] = []


class Asked(NamedTuple):
    """A POST /predict, sent as a form or as JSON."""

    images: Sequence[tuple[str | None, bytes]]
    classes: tuple[str, ...] | None
    top: int


Body = TypeVar("Body", bound=BaseModel)


async def read_predict(request: Request, limits: Limits) -> Asked:
    """The images and candidates of a request.

    Raises:
        Refused: 413 too many images, 415 neither a form nor JSON, 422 not as documented.
    """
    kind = _content_type(request)
    if kind == "multipart/form-data":
        return await _read_form(request, limits)
    if kind != "application/json":
        raise Refused(415, "Send images as multipart/form-data (field images) or as base64 in application/json.")
    body = await read_json(request, PredictJSON)
    _check_count(len(body.images), limits)
    images = [(None, _from_base64(text, place)) for place, text in enumerate(body.images)]
    return Asked(images, None if body.classes is None else tuple(body.classes), body.top)


async def read_json(request: Request, body: type[Body]) -> Body:
    """The JSON body of a request.

    Raises:
        Refused: 415 not declared as JSON, 422 not JSON, or not as documented.
    """
    if _content_type(request) != "application/json":
        raise Refused(415, "Send application/json.")
    data = await request.body()
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise Refused(422, f"The body has more than the {MAX_VALUES:,} values allowed.")
    try:
        return body.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise Refused(422, f"The request's {place or 'body'} is wrong: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise Refused(422, "The body is not JSON.") from None


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_form(request: Request, limits: Limits) -> Asked:
    longest = limits.max_classes + limits.max_new_classes + 1
    try:
        async with request.form(
            max_files=limits.max_images, max_fields=longest, max_part_size=4 * LONGEST + 16
        ) as form:
            return await _as_asked(form, limits)
    except (ValueError, LookupError):  # such as an unknown charset
        raise Refused(400, "The form can't be read: send it as UTF-8.") from None


async def _as_asked(form: FormData, limits: Limits) -> Asked:
    unknown = set(form) - {"images", "classes", "top"}
    if unknown:
        raise Refused(422, f"The form has the field {sorted(unknown)[0][:40]!r}; expected images, classes, top.")
    images: list[tuple[str | None, bytes]] = []
    for value in form.getlist("images"):
        if not isinstance(value, UploadFile):
            raise Refused(422, "A field images is not a file: send each image as a file with a name.")
        images.append((_shown(value.filename), await value.read()))
    _check_count(len(images), limits)
    classes = [_text(value, "classes") for value in form.getlist("classes")]
    tops = [_text(value, "top") for value in form.getlist("top")]
    top = tops[-1] if tops else str(TOP)
    if not (top.isascii() and top.isdigit() and len(top) < 8 and 1 <= int(top) <= 100_000):
        raise Refused(422, f"top is {top[:20]!r}; expected a whole number from 1 to 100000.")
    return Asked(images, tuple(classes) or None, int(top))


def _check_count(count: int, limits: Limits) -> None:
    if count == 0:
        raise Refused(422, "There is no image: send at least one in images.")
    if count > limits.max_images:
        raise Refused(
            413, f"{count} images were sent, but at most {limits.max_images} per request are allowed (--max-images)."
        )


def _from_base64(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        reason = "The image is not base64."
        raise Refused(422, reason, images=[{"index": place, "image": None, "error": reason}]) from None


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Refused(422, f"The field {field} is a file: send it as text.")
    return value


def _shown(name: str | None) -> str | None:
    """A file's name as it can be sent back."""
    return name[:200].encode("utf-8", "replace").decode() if name else None
