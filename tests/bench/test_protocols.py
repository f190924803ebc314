"""Protocols and presets: what is trained, what is tested among which classes, with which settings."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictures import COLOURS, picture

from fewclip.bench import protocols
from fewclip.bench.ablations import ABLATIONS, variants
from fewclip.bench.evaluation import evaluate
from fewclip.bench.protocols import ELEVEN, PROTOCOLS, SHIFTED
from fewclip.bench.rows import Row
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Sweep, execute
from fewclip.classifier import FewShotClassifier
from fewclip.data.benchmarks import table
from fewclip.data.read import read_data
from fewclip.errors import SettingsError
from fewclip.methods import METHODS, make_settings
from fewclip.report import published

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
    with pytest.raises(SettingsError, match="coop does not score classes that it was not trained on"):
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
        ({"settings": {"alfa": 1}}, "Neither training nor zero-shot or mmrl has a setting 'alfa'"),
        ({"settings": {"seed": 1}}, "give the seeds"),
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


# Other settings for the same tensors


def test_with_settings_refuses_what_does_not_fit(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("mmrl", str(backbone_file), shots=2, **FAST).fit(photos)
    with pytest.raises(SettingsError, match="fit again"):
        model.adapter_.with_settings(rep_dim=9)
    with pytest.raises(SettingsError, match="no setting 'beta'"):
        model.adapter_.with_settings(beta=0.1)
    assert model.adapter_.with_settings(alpha=1.0).method.settings.alpha == 1.0
    assert model.adapter_.method.settings.alpha == 0.7
