"""What reads bytes that strangers may have written. Each target reads a case and returns, or raises an error of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_files as files
import fuzz_models as models
import fuzz_texts as texts
from hypothesis import strategies as st
from mutations import json_like, like

from fewclip.errors import FewclipError


@dataclass(frozen=True)
class Target:
    """A reader, and what it is fed."""

    name: str
    cases: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], object]
    """Called with a case and an empty place for files."""
    valid: Callable[[], Sequence[Any]]
    """Cases that must be taken, so that not all are refused at the door."""
    share: float = 1.0
    """Of the time, among all targets: less where there is less to get wrong."""


def attempt(target: Target, case: Any, place: Path) -> bool:
    """Whether a reader took the case; False where it refused it in a sentence.

    Raises:
        Exception: anything else than an error of ours: a bug.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(case, place)
        except FewclipError as error:
            said = str(error)
            assert said, "an error without a sentence"
            assert said.isprintable(), said
            assert len(said) <= 2000, len(said)
            return False
        return True


TARGETS = (
    Target("images", lambda: like(files.images()), models.read_picture, lambda: files.images()[:26], 2),
    Target(
        "checkpoint .safetensors",
        lambda: like(files.safetensors_files()),
        models.read_weights(".safetensors"),
        lambda: files.safetensors_files()[:2],
    ),
    Target(
        "checkpoint .pt",
        models.archives,
        models.read_weights(".pt"),
        lambda: [*files.torch_files(), files.torchscript()],
        2,
    ),
    Target(
        "checkpoint folder",
        models.folders,
        models.read_folder,
        lambda: [models.encoded(folder) for folder in models.good_folders().values()],
    ),
    Target(
        "tokenizer.json",
        lambda: json_like([files.tokenizer_json()]),
        models.tokens,
        lambda: [models.as_json(files.tokenizer_json())],
    ),
    Target("adapter", models.adapters, models.read_adapter, models.good_adapters),
    Target("CSV", texts.csv_files, texts.read_table, lambda: [texts.TABLE]),
    Target(
        "split file",
        lambda: json_like([texts.PARTS]),
        texts.read_split,
        lambda: [models.as_json(texts.PARTS)],
    ),
    Target(
        "variant lists",
        texts.variants,
        texts.read_variants,
        lambda: [(b"707-320\nF-16A/B\n", b"1 707-320\n")],
        0.5,
    ),
    Target(
        "result rows",
        texts.row_files,
        texts.read_results,
        lambda: [texts.as_lines(rows) for rows in files.result_rows()],
    ),
    Target(
        "result rows, page",
        texts.row_files,
        texts.read_page,
        lambda: [texts.as_lines(files.result_rows()[1])],
        0.5,
    ),
    Target("class names", texts.texts, texts.read_names, lambda: [["cat", "a_b", "\u732b"]]),
    Target("requests", texts.requests, texts.read_request, lambda: [texts.form_request(), texts.json_request()], 2),
)
