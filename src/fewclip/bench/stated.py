"""Reads what was measured of one adapter from a file of results, for its card; results of any other training are left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewclip.adapters.card import Stated
from fewclip.bench.rows import Row, read_rows
from fewclip.errors import DataError

if TYPE_CHECKING:
    from fewclip.adapters.config import AdapterConfig


def read_results(path: str | Path, config: AdapterConfig) -> list[Stated]:
    """The results of an adapter in a file: rows of `fewclip bench` (JSON Lines), or what `fewclip eval --json` printed.

    A row counts if its training was the adapter's: method, settings, backbone, data, shots, seed and number of images. An
    evaluation must have the checksum of the adapter's weights.

    Raises:
        DataError: the file is absent or has no results of this adapter.
    """
    path = Path(path)
    try:
        whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, OSError):  # rows: several JSON documents
        whole = None
    if isinstance(whole, dict) and "run" not in whole:
        return [_evaluation(whole, path, config)]
    done = [row for row in read_rows(path) if row["status"] == "done"]
    stated = [_stated(path, row, str(row.get("protocol")), "dataset", "test") for row in done if _is_of(row, config)]
    if not stated:
        raise DataError(
            f"None of the {len(done)} results in {path} belongs to this adapter: expected rows with its method ({config.method}), "
            f"settings, backbone, data ({config.training.data}), shots and seed. Evaluate it with `fewclip eval --json`."
        )
    return stated


def _evaluation(result: dict[str, Any], path: Path, config: AdapterConfig) -> Stated:
    if result.get("weights_sha256", config.weights_sha256) != config.weights_sha256:
        raise DataError(
            f"{path} evaluates a different adapter, whose weights have another checksum: evaluate this one with "
            "`fewclip eval --json`."
        )
    if "weights_sha256" not in result:
        raise DataError(
            f"{path} is neither a file of rows nor an evaluation with the checksum of its adapter: give rows.jsonl of "
            "`fewclip bench`, or what `fewclip eval ADAPTER DATA --json` of this version prints."
        )
    return _stated(path, result, "fewclip eval", "data", result.get("part"))


def _is_of(row: Row, config: AdapterConfig) -> bool:
    training = config.training
    trained = training.settings
    settings = row.get("training") or {}
    return (
        row.get("variant") is None
        and row.get("method") == config.method
        and row.get("backbone_fingerprint") == config.backbone_fingerprint
        and row.get("settings") == config.settings
        and row.get("source") == training.data
        and row.get("shots") == training.shots
        and row.get("train_images") == training.images
        and all(trained.get(name) == value for name, value in settings.items())
    )


def _stated(path: Path, result: Mapping[str, Any], protocol: str, data: str, part: object) -> Stated:
    try:
        counts = int(result["classes"]), int(result["images"]), float(result["accuracy"])
        return Stated(protocol, str(result[data]), str(part), str(result["split"]), *counts)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"A result in {path} can't be read ({error}): restore the file, or evaluate again.") from error
