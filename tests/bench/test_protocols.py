"""Protocols and presets: what is trained, what is tested among which classes, with which settings."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import COLOURS, picture

from fewclip.bench import protocols
from fewclip.bench.ablations import ABLATIONS, variants
from fewclip.bench.evaluation import calibration_error, evaluate
from fewclip.bench.presets import TABLE, settings_by_target, settings_for
from fewclip.bench.protocols import ELEVEN, PROTOCOLS, SHIFTED
from fewclip.bench.rows import Row
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Sweep, execute
from fewclip.classifier import FewShotClassifier
from fewclip.data.benchmarks import table
from fewclip.data.benchmarks.table import find_benchmark
from fewclip.data.read import read_data
from fewclip.errors import DataError, SettingsError
from fewclip.methods import METHODS, make_settings
from fewclip.report import published
from fewclip.training.settings import TrainSettings

FAST: dict[str, Any] = {"epochs": 2, "batch_size": 4, "rep_dim": 8}


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    """A second style of the same colours, one class less, in its own split folders."""
    root = tmp_path / "drawings"
    for number, (name, colour) in enumerate(list(COLOURS.items())[:2]):
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                picture(colour, 500 + 100 * number + i).save(root / split / name / f"{split}{i}.png")
    return root


def run_of(source: Path, backbone: Path, **more: Any) -> Run:
    settings = more.pop("settings", FAST)
    defaults: dict[str, Any] = {"protocol": "base-to-novel", "method": "mmrl", "shots": 4, "settings": settings}
    return Run(source=str(source), backbone=str(backbone), **(defaults | more))


def rows_of(run: Run, tmp_path: Path) -> list[Row]:
    return execute(run, Where(out=str(tmp_path / "out")))


def test_a_row_says_all_that_the_schema_lists(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    rows = rows_of(run_of(photos, backbone_file), tmp_path)
    assert [set(row) for row in rows] == [set(Row.__annotations__)] * 2
    assert [(row["row"], row["rows"], row["status"]) for row in rows] == [(1, 2, "done"), (2, 2, "done")]
    assert rows[0]["training"]["epochs"] == 2
    assert rows[0]["settings"]["rep_dim"] == 8
    assert rows[0]["parameters"] > 1000
    assert (rows[0]["peak_memory_mb"] or 0) > 50
    assert 0 < rows[0]["train_seconds"] < 600


def test_base_to_novel_tests_each_half_among_its_own(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    base, novel = rows_of(run_of(photos, backbone_file), tmp_path)
    assert (base["split"], base["candidates"], set(base["per_class"])) == ("base", "split", {"blue", "green"})
    assert (novel["split"], novel["candidates"], set(novel["per_class"])) == ("novel", "split", {"red"})
    assert (base["classes"], novel["classes"]) == (2, 1)
    assert novel["accuracy"] == 100.0  # a single candidate
    assert (base["images"], base["train_images"]) == (16 - 8, 8)  # no split of its own: what was trained on is left out
    assert novel["images"] == 8


def test_open_lets_all_classes_compete(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    run = run_of(photos, backbone_file, protocol="open")
    base, novel = rows_of(run, tmp_path)
    assert [(r["split"], r["candidates"], r["classes"]) for r in (base, novel)] == [
        ("base", "all", 3),
        ("novel", "all", 3),
    ]
    train = read_data(photos)
    model = FewShotClassifier("mmrl", str(backbone_file), shots=4, seed=1, **FAST).fit(train.only(["blue", "green"]))
    test = read_data(photos, "test")
    red = [i for i, label in enumerate(test.labels) if test.classes[label] == "red"]
    said = model.predict([test.images[i] for i in red], ["blue", "green", "red"])
    assert novel["accuracy"] == pytest.approx(100 * (said == "red").mean(), abs=0.01)


def test_few_shot_trains_and_tests_all_classes(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    (row,) = rows_of(run_of(photos, backbone_file, protocol="few-shot", shots=2), tmp_path)
    assert (row["split"], row["classes"], row["train_images"], row["images"]) == ("all", 3, 6, 18)


@pytest.mark.parametrize(
    ("method", "preset", "protocol", "images"),
    [
        ("linear-probe", "paper", "few-shot", 3 * 1),  # as many as shots, at most 4, of each class
        ("tip-adapter", "paper", "few-shot", 3 * 2),  # the val split
        ("tip-adapter", "fair", "few-shot", 0),
        ("tip-adapter", "paper", "domain-generalization", 0),
        ("coop", "paper", "few-shot", 0),
    ],
)
def test_validation_images_are_looked_at_as_published(
    method: str, preset: str, protocol: str, images: int, photos: Path, backbone_file: Path, tmp_path: Path
) -> None:
    for path in sorted(photos.glob("*/*.png")):
        split = {"0": "val", "1": "val", "2": "test"}.get(path.stem, "train")
        place = tmp_path / "parted" / split / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    few: dict[str, Any] = {"alpha_steps": 2, "beta_steps": 2, "passes": 1}
    settings = few if method == "tip-adapter" else {"epochs": 1} if method == "coop" else {}
    run = run_of(
        tmp_path / "parted", backbone_file, method=method, preset=preset, protocol=protocol, settings=settings, shots=1
    )
    (row,) = rows_of(run, tmp_path)
    assert row["status"] == "done", row
    assert row["val_images"] == images
    assert bool(row["chosen"]) == bool(images)


def test_data_without_validation_images_search_nothing(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    run = run_of(
        photos, backbone_file, method="linear-probe", preset="paper", protocol="few-shot", shots=1, settings={}
    )
    (row,) = rows_of(run, tmp_path)
    assert (row["val_images"], row["chosen"]) == (0, {})


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalization"])
def test_transfer_scores_targets_as_new(
    protocol: str, photos: Path, drawings: Path, backbone_file: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = FAST | {"beta": 0.5}
    run = run_of(
        photos,
        backbone_file,
        protocol=protocol,
        method="mmrlpp",
        targets=(str(drawings),),
        settings=settings,
        target_settings={str(drawings): {"beta": 0.0}},
    )
    source, target, chosen = rows_of(run, tmp_path)
    assert (source["dataset"], source["classes"]) == (str(photos), 3)
    assert (target["dataset"], target["source"], target["classes"]) == (str(drawings), str(photos), 2)
    model = FewShotClassifier("mmrlpp", str(backbone_file), shots=4, seed=1, **settings).fit(photos)
    images = read_data(drawings, "test")
    new = evaluate(model.adapter_, images, unseen=True)
    assert (target["accuracy"], target["calibration_error"]) == (new.accuracy, new.calibration_error)
    assert (
        new.calibration_error != evaluate(model.adapter_, images).calibration_error
    )  # known names would be scored otherwise
    assert (chosen["variant"], chosen["settings"]["beta"], target["variant"]) == ("beta 0.0 by target", 0.0, None)
    other = evaluate(model.adapter_.with_settings(beta=0.0), images, unseen=True)
    assert chosen["calibration_error"] == other.calibration_error != target["calibration_error"]


def test_each_target_is_asked_with_its_own_template(backbone_file: Path, tmp_path: Path, photos: Path) -> None:
    run = run_of(
        photos, backbone_file, protocol="cross-dataset", method="zero-shot", settings={}, targets=("kinds-mono",)
    )
    assert [row["template"] for row in rows_of(run, tmp_path)] == ["a photo of a {}.", "an icon of a {}."]


def test_a_template_given_is_that_of_all(backbone_file: Path, tmp_path: Path, photos: Path) -> None:
    run = run_of(photos, backbone_file, method="zero-shot", settings={}, template="texture")
    assert {row["template"] for row in rows_of(run, tmp_path)} == {"{} texture."}


def test_a_failed_run_is_a_row_with_its_error(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    (row,) = rows_of(run_of(photos, backbone_file, shots=9), tmp_path)
    assert row["status"] == "failed"
    assert "8 training images, but 9 shots" in str(row["error"])
    assert (row["method"], row["source"], row["shots"]) == ("mmrl", str(photos), 9)


QUICK: dict[str, dict[str, Any]] = {
    "proda": {"pool": 4, "prompt_batch": 2, "context_tokens": 4},
    "prograd": {"context_tokens": 8},
    "plot": {"views": 2},
    "rpo": {"prompts": 2},
    "provp": {"prompts": 2},
}
"""Smaller than published, to be quick and to fit the tiny CLIP's 32 tokens."""


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_through_the_protocols(
    method: str, photos: Path, backbone_file: Path, tmp_path: Path
) -> None:
    sweep = Sweep(
        protocols=("few-shot", "base-to-novel", "open"),
        methods=("all",),
        datasets=(str(photos),),
        shots=(2,),
        seeds=(1,),
        settings={"epochs": 1, "batch_size": 4, "rep_dim": 8} | QUICK.get(method, {}),
        backbone=str(backbone_file),
    )
    runs = [run for run in sweep.runs() if run.method == method]
    assert len(runs) == (3 if METHODS[method].new_classes else 1)
    for run in runs:
        rows = rows_of(run, tmp_path)
        assert [row["error"] for row in rows] == [None] * (1 if run.protocol == "few-shot" else 2)
        assert all(set(row) == set(Row.__annotations__) and row["status"] == "done" for row in rows)
        assert all(0 <= row["accuracy"] <= 100 and row["calibration_error"] >= 0 for row in rows)
        assert json.loads(json.dumps(rows)) == json.loads(json.dumps(rows, allow_nan=False))
        assert (rows[0]["parameters"] > 0) == (method not in ("zero-shot", "tip-adapter"))


# Presets


def test_fair_is_the_same_for_every_data_set() -> None:
    for method in TABLE:
        for protocol in PROTOCOLS.values():
            for shots in protocol.shots:
                assert len({str(settings_for("fair", protocol.name, method, d, shots)) for d in ELEVEN}) == 1
            assert settings_by_target("fair", protocol.name, method, "eurosat") == {}
    assert settings_for("fair", "few-shot", "mmrlpp", "dtd") == {"batch_size": 32, "epochs": 100, "lr": 2e-3}


@pytest.mark.parametrize(
    ("protocol", "method", "source", "expected"),
    [
        ("base-to-novel", "mmrl", "dtd", {"batch_size": 4, "epochs": 10, "lr": 1e-3, "reg_weight": 6.0}),
        (
            "base-to-novel",
            "mmrl",
            "eurosat",
            {"batch_size": 4, "epochs": 10, "lr": 1e-3, "reg_weight": 0.01, "rep_dim": 2048},
        ),
        ("few-shot", "mmrl", "imagenet", {"batch_size": 32, "epochs": 5, "lr": 1e-3, "reg_weight": 0.5}),
        ("few-shot", "mmrlpp", "imagenet", {"batch_size": 32, "epochs": 5, "lr": 1e-3, "reg_weight": 0.2, "beta": 0.9}),
        (
            "cross-dataset",
            "mmrlpp",
            "imagenet",
            {"batch_size": 32, "epochs": 1, "lr": 1e-3, "warmup_epochs": 0, "reg_weight": 0.1, "beta": 0.9},
        ),
        ("base-to-novel", "zero-shot", "dtd", {}),
    ],
)
def test_paper_settings(protocol: str, method: str, source: str, expected: dict[str, Any]) -> None:
    assert settings_for("paper", protocol, method, source) == expected


PUBLISHED: list[tuple[str, str, str, int, dict[str, Any]]] = [
    ("zero-shot", "few-shot", "dtd", 16, {"ensemble": False}),
    ("linear-probe", "few-shot", "dtd", 16, {"rounds": 8, "max_iter": 1000}),
    ("clip-adapter", "few-shot", "imagenet", 16, {"ratio": 0.2, "lr": 2e-3, "epochs": 50, "batch_size": 32}),
    ("tip-adapter", "few-shot", "oxford_flowers", 16, {"alpha": 10.0, "beta_scale": 50.0, "alpha_scale": 50.0}),
    ("tip-adapter", "few-shot", "imagenet", 16, {"alpha": 1.17, "beta": 1.0, "ensemble": True}),
    ("tip-adapter-f", "few-shot", "eurosat", 16, {"epochs": 100, "eps": 1e-4, "batch_size": 256, "alpha": 2.0}),
    ("tip-adapter-f", "few-shot", "dtd", 16, {"epochs": 20, "alpha_scale": 13.0}),
    ("coop", "base-to-novel", "dtd", 16, {"epochs": 200, "context_tokens": 4, "words": "a photo of a"}),
    ("coop", "few-shot", "dtd", 4, {"epochs": 100, "context_tokens": 16, "words": ""}),
    ("coop", "few-shot", "imagenet", 16, {"epochs": 50}),
    ("coop", "cross-dataset", "imagenet", 16, {"epochs": 50, "context_tokens": 4}),
    ("cocoop", "cross-dataset", "imagenet", 16, {"epochs": 10, "batch_size": 1, "lr": 2e-3}),
    ("kgcoop", "few-shot", "imagenet", 4, {"epochs": 100, "batch_size": 128, "kg_weight": 8.0}),
    ("prograd", "few-shot", "eurosat", 8, {"epochs": 200, "strength": 0.8}),
    ("prograd", "few-shot", "eurosat", 1, {"epochs": 50, "strength": 1.0}),
    ("prograd", "base-to-novel", "imagenet", 16, {"epochs": 50, "context_tokens": 16}),
    ("proda", "base-to-novel", "dtd", 16, {"pool": 32, "prompt_batch": 4, "context_tokens": 16}),
    ("plot", "few-shot", "dtd", 2, {"epochs": 100, "views": 4, "image_prompts": 2, "stage": "two-stage"}),
    ("plot", "few-shot", "ucf101", 16, {"epochs": 200, "context_tokens": 6}),
    ("tcp", "base-to-novel", "sun397", 16, {"epochs": 25, "eps": 1e-3, "optimizer": "adam"}),
    ("provp", "few-shot", "dtd", 1, {"prompts": 50, "weight_decay": 1e-3, "epochs": 50}),
    ("provp", "few-shot", "dtd", 16, {"prompts": 50, "weight_decay": 5e-4, "epochs": 200, "lr": 0.1}),
    ("provp", "base-to-novel", "imagenet", 16, {"prompts": 16, "weight_decay": 5e-3, "epochs": 100, "lr": 5.0}),
    ("rpo", "domain-generalization", "imagenet", 16, {"prompts": 24, "lr": 5e-3, "epochs": 15}),
    ("rpo", "base-to-novel", "dtd", 4, {"prompts": 4, "lr": 0.01}),
    ("maple", "cross-dataset", "imagenet", 16, {"depth": 3, "lr": 2.6e-3, "epochs": 2, "batch_size": 4}),
    ("maple", "base-to-novel", "imagenet", 16, {"depth": 9, "lr": 3.5e-3, "epochs": 5}),
    ("promptsrc", "few-shot", "food101", 16, {"average_mean": 30.0, "average_std": 30.0, "epochs": 50}),
    ("promptsrc", "few-shot", "dtd", 16, {"average_mean": 45.0, "average_std": 5.0, "text_depth": 9}),
    ("promptsrc", "cross-dataset", "imagenet", 16, {"average_mean": 6.0, "image_depth": 3, "epochs": 20}),
    ("metaprompt", "base-to-novel", "imagenet", 16, {"ensemble": True, "lr": 1.5e-3, "epochs": 8, "batch_size": 16}),
    ("mma", "base-to-novel", "imagenet", 16, {"batch_size": 128, "epochs": 5, "scale": 0.001, "warmup_epochs": 0}),
    ("mma", "cross-dataset", "imagenet", 16, {"first_layer": -4, "epochs": 1}),
    ("clip-lora", "few-shot", "dtd", 1, {"steps_per_shot": 500, "epochs": 0, "lr": 2e-4, "rank": 2}),
    ("mmrl", "few-shot", "dtd", 1, {"epochs": 50, "batch_size": 32}),
    ("mmrlpp", "few-shot", "dtd", 1, {"epochs": 100, "lr": 2e-3}),
]
"""As the methods' published configurations say; whether a preset or the method's own default says it here is the same."""


@pytest.mark.parametrize(("method", "protocol", "source", "shots", "expected"), PUBLISHED)
def test_published_settings(method: str, protocol: str, source: str, shots: int, expected: dict[str, Any]) -> None:
    (run,) = plan(
        protocols=(protocol,), methods=(method,), datasets=(source,), shots=(shots,), seeds=(1,), preset="paper"
    )
    training = FewShotClassifier(method, **run.settings).split_settings()
    used = asdict(training[0]) | asdict(training[1])
    assert {name: used[name] for name in expected} == expected


def test_every_method_has_a_published_setting_tested() -> None:
    assert {method for method, *_ in PUBLISHED} == set(METHODS)


def test_every_preset_is_a_setting_of_its_method() -> None:
    known = {f.name for f in fields(TrainSettings)}
    for method, presets in TABLE.items():
        assert method in METHODS
        for settings in [rule.settings for rule in presets.rules] + list(presets.by_target.values()):
            make_settings(method, {k: v for k, v in settings.items() if k not in known})
        for rule in presets.rules:
            assert rule.settings
            assert set(rule.protocols) <= set(PROTOCOLS)
            assert set(rule.shots) <= {1, 2, 4, 8, 16}
            assert {find_benchmark(d).key for d in rule.datasets} == set(rule.datasets)


def test_lambda_is_the_best_of_the_published_table() -> None:
    best: dict[str, tuple[float, float]] = {}
    with (published.FOLDER / "ablation_lambda.csv").open() as file:
        for line in csv.DictReader(file):
            if line["source"] == "table8" and line["dataset"] != "Average":
                key = find_benchmark(line["dataset"]).key
                best[key] = max(best.get(key, (0.0, 0.0)), (float(line["hm"]), float(line["lambda"])))
    assert len(best) == 11
    for dataset, (_, weight) in best.items():
        assert settings_for("paper", "base-to-novel", "mmrl", dataset)["reg_weight"] == weight


# Sweeps and ablations


def plan(**more: Any) -> list[Run]:
    defaults: dict[str, Any] = {"protocols": ("base-to-novel",), "methods": ("zero-shot", "mmrl")}
    return Sweep(**(defaults | more)).runs()


def test_a_sweep_is_every_combination_once() -> None:
    runs = plan(datasets=("Caltech101", "eurosat"), seeds=(1, 2, 3))
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 3
    assert {run.source for run in runs} == {"caltech101", "eurosat"}
    few = plan(protocols=("few-shot",), datasets=("dtd",), seeds=(1,))
    assert [run.shots for run in few] == [1, 2, 4, 8, 16] * 2


def test_what_a_protocol_is_run_on() -> None:
    assert len({run.source for run in plan()}) == 11
    (run,) = plan(protocols=("domain-generalization",), methods=("mmrl",), seeds=(1,))
    assert (run.source, run.targets) == ("imagenet", SHIFTED)
    (run,) = plan(protocols=("cross-dataset",), methods=("mmrlpp",), seeds=(1,), preset="paper")
    assert set(run.targets) == set(ELEVEN) - {"imagenet"}
    assert run.target_settings["food101"] == {"beta": 0.3}
    assert run.settings["reg_weight"] == 0.1


def test_a_further_data_set_leaves_the_published_protocols_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is loaded again, as it would be with the longer tables."""
    before = {name: (p.sources, p.targets, p.shots) for name, p in PROTOCOLS.items()}
    trained, tested = table.BENCHMARKS["dtd"], table.BENCHMARKS["imagenetv2"]
    more = (replace(trained, key="textures"), replace(tested, key="imagenet_c"))
    monkeypatch.setattr(table, "TABLE", (*table.TABLE, *more))
    monkeypatch.setattr(table, "BENCHMARKS", table.BENCHMARKS | {b.key: b for b in more})
    spec = importlib.util.spec_from_file_location("protocols_again", protocols.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "protocols_again", again)
    spec.loader.exec_module(again)
    assert {name: (p.sources, p.targets, p.shots) for name, p in again.PROTOCOLS.items()} == before


def test_the_published_protocols_name_every_published_data_set_once() -> None:
    """Against the table of data sets and the papers' own tables."""
    known = {b.key: b.splits for b in table.TABLE}
    assert {"imagenet"} | set(PROTOCOLS["cross-dataset"].targets) == set(ELEVEN)
    assert {name for name in ELEVEN if known[name] != ("test",)} == set(ELEVEN)
    assert all(known[name] == ("test",) for name in SHIFTED)
    for protocol in PROTOCOLS.values():
        assert len(set(protocol.sources)) == len(protocol.sources)
        assert len(set(protocol.targets)) == len(protocol.targets)
        assert "imagenet" not in protocol.targets
    assert (len(ELEVEN), len(SHIFTED)) == (11, 4)
    for file, expected in (
        ("base_to_novel", ELEVEN),
        ("few_shot", ELEVEN),
        ("cross_dataset", ELEVEN),
        ("domain_generalization", ("imagenet", *SHIFTED)),
    ):
        printed = {line["our_dataset"] for line in published.read(file)} - {"Average"}
        assert printed == set(expected), file


def test_a_context_for_each_class_is_not_asked_for_new_ones() -> None:
    own: dict[str, Any] = {"datasets": ("dtd",), "seeds": (1,), "settings": {"class_specific": True}}
    assert {"coop", "kgcoop", "prograd"}.isdisjoint({run.method for run in plan(methods=("all",), **own)})
    assert "coop" in {run.method for run in plan(protocols=("few-shot",), methods=("all",), **own)}
    with pytest.raises(SettingsError, match="coop says nothing of classes"):
        plan(methods=("coop",), **own)


def test_settings_follow_the_shots() -> None:
    runs = plan(protocols=("few-shot",), methods=("coop",), datasets=("dtd",), seeds=(1,))
    assert [run.settings["epochs"] for run in runs] == [50, 100, 100, 200, 200]


def test_settings_go_to_the_methods_that_have_them() -> None:
    zero, mmrl = plan(datasets=("dtd",), seeds=(1,), settings={"alpha": 0.3, "epochs": 7})
    assert zero.settings == {"epochs": 7}
    assert mmrl.settings == {"batch_size": 4, "epochs": 7, "lr": 1e-3, "alpha": 0.3}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"methods": ("coat",)}, "There is no method 'coat'"),
        ({"protocols": ("zero",)}, "There is no protocol 'zero'"),
        ({"settings": {"alfa": 1}}, "No method has the setting 'alfa'"),
        ({"settings": {"seed": 1}}, "Seeds are not set"),
        ({"preset": "best"}, "There is no preset 'best'"),
        ({"ablation": "colour"}, "There is no ablation 'colour'"),
        ({"ablation": "alpha"}, "varies alpha, which zero-shot doesn't have"),
    ],
)
def test_mistakes_in_a_sweep(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        plan(**more)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_of_every_ablation_is_a_setting(name: str) -> None:
    for method in ("mmrl", "mmrlpp"):
        found = variants(name, method, depth=12)
        assert len(found) >= 3
        for settings in found.values():
            make_settings(method, settings)
    runs = plan(methods=("mmrl",), datasets=("icons",), seeds=(1,), ablation=name)
    assert len({run.name for run in runs}) == len(runs) == len(variants(name, "mmrl", depth=_icon_depth()))


def _icon_depth() -> int:
    from fewclip.bench.run import backbone

    config = backbone("icon-clip").config
    return min(config.vision_layers, config.text_layers)


def test_the_ablation_of_variants_runs(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    few = plan(
        methods=("mmrl",),
        datasets=(str(photos),),
        seeds=(1,),
        shots=(4,),
        ablation="variants",
        settings=FAST,
        backbone=str(backbone_file),
    )
    rows = {run.variant: execute(run, Where(out=str(tmp_path))) for run in few}
    assert all(row[0]["status"] == "done" for row in rows.values()), rows
    full = rows["full"][0]["parameters"]
    assert rows["w/o V"][0]["parameters"] < full
    assert rows["w/o L"][0]["parameters"] < full
    assert rows["w/o DS1"][0]["parameters"] == full


# Evaluation


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.97, 0.55, 0.55], dtype=torch.double)
    right = torch.tensor([True, False, True, False])
    # bin of 0.95 and 0.97: mean 0.96 against 1/2; bin of 0.55: 0.55 against 1/2; each half of the images
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.46 + 0.5 * 0.05)
    assert calibration_error(torch.ones(3, dtype=torch.double), torch.ones(3, dtype=torch.bool)) == 0


def test_confusions_and_examples(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("zero-shot", str(backbone_file), shots=2).fit(photos)
    data = read_data(photos)
    result = evaluate(model.adapter_, data)
    truth: Sequence[str] = [data.classes[label] for label in data.labels]
    guesses = model.predict(data.images)
    wrong = [(t, g) for t, g in zip(truth, guesses, strict=True) if t != g]
    assert sum(count for _, _, count in result.confusions) == len(wrong) > 0
    assert all(count == wrong.count((t, g)) for t, g, count in result.confusions)
    by_key = dict(zip(data.keys, zip(truth, guesses, strict=True), strict=True))
    assert all(by_key[e["key"]] == (e["truth"], e["guess"]) for e in result.examples)


def test_with_settings_refuses_what_does_not_fit(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("mmrl", str(backbone_file), shots=2, **FAST).fit(photos)
    with pytest.raises(SettingsError, match="fit anew"):
        model.adapter_.with_settings(rep_dim=9)
    with pytest.raises(SettingsError, match="no setting 'beta'"):
        model.adapter_.with_settings(beta=0.1)
    assert model.adapter_.with_settings(alpha=1.0).method.settings.alpha == 1.0
    assert model.adapter_.method.settings.alpha == 0.7


def test_no_image_left(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("zero-shot", str(backbone_file), shots=2).fit(photos)
    with pytest.raises(DataError, match="No image of photos is left"):
        evaluate(model.adapter_, read_data(photos).take([]))
