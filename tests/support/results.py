"""Result rows as runs write them, with numbers that a test can compute."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fewclip.bench.rows import Row

HOSTILE = '<script>alert("x")</script>'


def row(**given: Any) -> Row:
    """One row of a finished run; the name follows from what it is."""
    values: dict[str, Any] = {
        "row": 1,
        "rows": 1,
        "status": "done",
        "error": None,
        "note": None,
        "protocol": "base-to-novel",
        "preset": "fair",
        "method": "mmrl",
        "settings": {},
        "training": {},
        "ablation": None,
        "variant": None,
        "backbone": "icon-clip",
        "backbone_fingerprint": "f" * 16,
        "source": "caltech101",
        "template": "a photo of a {}.",
        "split": "base",
        "seed": 1,
        "shots": 16,
        "train_images": 800,
        "val_images": 0,
        "chosen": {},
        "images": 100,
        "classes": 50,
        "accuracy": 80.0,
        "mean_class_accuracy": 79.0,
        "per_class": {"cat": 80.0},
        "calibration_error": 2.5,
        "confusions": [],
        "examples": [],
        "parameters": 4_992_256,
        "train_seconds": 12.5,
        "predict_seconds": 1.5,
        "peak_memory_mb": 900.0,
        "gpu_memory_mb": None,
        "versions": {"fewclip": "0.1.0", "torch": "2.13.0", "python": "3.11"},
        "machine": {"processor": "Some CPU", "cores": 2, "threads": 1, "gpu": None, "system": "Linux"},
        "finished": "2026-11-22T20:00:00Z",
        **given,
    }
    values.setdefault("dataset", values["source"])
    values.setdefault("candidates", "all" if values["protocol"] == "open" else "split")
    parts = ("protocol", "preset", "method", "source", "ablation", "variant", "backbone", "shots", "seed", "settings")
    values.setdefault("run", "-".join(str(values[part]) for part in parts))
    assert values.keys() == Row.__annotations__.keys()
    return cast("Row", values)


def failed(run: str, error: str, **given: Any) -> Row:
    """The row of a run that failed."""
    measured = ("accuracy", "mean_class_accuracy", "per_class", "calibration_error", "confusions", "examples")
    values = row(run=run, status="failed", error=error, **given)
    return cast("Row", {k: v for k, v in values.items() if k not in measured})


def halves(
    method: str, dataset: str, seed: int, base: float, novel: float, protocol: str = "base-to-novel", **given: Any
) -> list[Row]:
    """The two rows of a run on base and novel classes."""
    common = {"method": method, "source": dataset, "seed": seed, "protocol": protocol, **given}
    pair = [row(split="base", accuracy=base, **common), row(split="novel", accuracy=novel, **common)]
    return [{**r, "row": i, "rows": 2} for i, r in enumerate(pair, 1)]


def transfers(
    method: str, source: str, seed: int, accuracies: dict[str, float], protocol: str, **given: Any
) -> list[Row]:
    """The rows of a run that was tested on its source and other data sets."""
    common = {"method": method, "source": source, "seed": seed, "protocol": protocol, "split": "all", **given}
    made = [row(dataset=dataset, accuracy=accuracy, **common) for dataset, accuracy in accuracies.items()]
    run = made[0]["run"]
    return [{**r, "row": i, "rows": len(made), "run": run} for i, r in enumerate(made, 1)]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


COST = {
    "zero-shot": {"parameters": 0, "train_seconds": 0.0},
    "coop": {"parameters": 8192, "train_seconds": 61.0},
    "maple": {"parameters": 3_555_072, "train_seconds": 240.0},
    "mmrl": {"parameters": 4_992_256, "train_seconds": 35.0},
    "mmrlpp": {"parameters": 813_312, "train_seconds": 48.0},
}
LEVEL = {"zero-shot": (70, 74), "coop": (82, 63), "maple": (82.3, 75), "mmrl": (85.7, 77.2), "mmrlpp": (85.3, 78.1)}
SETS = {"caltech101": 10, "oxford_pets": 12, "eurosat": -4, "dtd": -9, HOSTILE: 0}


def everything(backbone: str = "icon-clip") -> list[Row]:
    """All protocols, five methods, three seeds, ablations, failed and missing runs."""
    rows: list[Row] = []
    names = ["cat", "<b>dog</b>", "wolf_1", "a & b", "10 % | x"]
    for m, (method, (base, novel)) in enumerate(LEVEL.items()):
        for d, (dataset, shift) in enumerate(SETS.items()):
            for seed in (1, 2, 3):
                if (method, dataset, seed) == ("maple", "dtd", 3) or (method, dataset) == ("coop", "eurosat"):
                    continue
                if method == "zero-shot" and seed > 1:
                    continue
                step = (seed - 2) * 0.4 + ((m * 7 + d * 3) % 5 - 2) * 0.7
                examples = [
                    {
                        "key": f"images/{dataset}/{k:03d}.jpg",
                        "truth": names[k % 5],
                        "guess": names[(k + (k + m) % 3) % 5],
                        "probability": 0.4 + k / 40,
                    }
                    for k in range(12)
                ]
                confusions = [[names[k % 4], names[(k + 1) % 5], 9 - k + m] for k in range(4)]
                common: dict[str, Any] = {
                    **COST[method],
                    "backbone": backbone,
                    "examples": examples,
                    "confusions": confusions,
                }
                ece: dict[str, Any] = {"calibration_error": 2 + m * 0.8 + d * 0.3}
                b, n = min(base + shift * 0.9 + step, 99.0), min(novel + shift * 0.8 - step, 99.0)
                rows += halves(method, dataset, seed, round(b, 2), round(n, 2), **common, **ece)
                rows += halves(method, dataset, seed, round(b - 5, 2), round(n - 8, 2), "open", **common, **ece)
                for shots in (1, 2, 4, 8, 16):
                    gain = 0 if method == "zero-shot" else (shots.bit_length() - 1) * (2 + m * 0.7)
                    accuracy = round(min(60 + shift + gain + step, 99), 2)
                    test: dict[str, Any] = {"shots": shots, "accuracy": accuracy, **common, **ece}
                    rows.append(row(method=method, source=dataset, protocol="few-shot", split="all", seed=seed, **test))
        for seed in (1, 2, 3):
            step = (seed - 2) * 0.2
            cross = {"imagenet": 71.0 + m, "caltech101": 93 + m / 2, "dtd": 44 + m, "eurosat": 47 + 2 * m}
            shifted = {"imagenet": 71.0 + m, "imagenetv2": 61 + m, "imagenet_a": 48 + m, "imagenet_r": 74 + m / 2}
            for protocol, table in (("cross-dataset", cross), ("domain-generalization", shifted)):
                rows += transfers(
                    method,
                    "imagenet",
                    seed,
                    {k: v + step for k, v in table.items()},
                    protocol,
                    backbone=backbone,
                    **COST[method],
                )
    for k, variant in enumerate(("full", "w/o L", "w/o V", "w/o DS1", "w/o DS2", "w/o RS", "MMRL-dagger")):
        for seed in (1, 2, 3):
            rows += halves(
                "mmrl",
                "caltech101",
                seed,
                85.0 - k / 3,
                77 - k / 2,
                ablation="variants",
                variant=variant,
                backbone=backbone,
            )
    for dim in (32, 512, 2048):
        rows += halves(
            "mmrl", "caltech101", 1, 85.0 + dim / 4096, 77.0, ablation="rep-dim", variant=str(dim), backbone=backbone
        )
    rows.append(
        failed(
            "base-to-novel-coop-eurosat",
            f"Loss is not finite {HOSTILE}",
            method="coop",
            source="eurosat",
            backbone=backbone,
        )
    )
    return rows
