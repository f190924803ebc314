"""Reports: the numbers of their tables, computed by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from results import everything, failed, halves, row, transfers, write

from fewclip.bench.rows import Row
from fewclip.errors import DataError
from fewclip.report import ablations, costs, layouts, published
from fewclip.report.build import build
from fewclip.report.collect import Group, collect, load
from fewclip.report.mistakes import confusions, sheet
from fewclip.report.names import is_reference
from fewclip.report.tables import Cell, Table

TABLES = Path(__file__).parents[1] / "published" / "tables.sha256"
TWO_SETS = [
    r
    for dataset, shift in (("caltech101", 0), ("oxford_pets", 10))
    for seed, base, novel in ((1, 80.0, 70.0), (2, 82.0, 72.0), (3, 84.0, 68.0))
    for r in halves("mmrl", dataset, seed, base + shift, novel + shift)
]


def only(rows: list[Row]) -> Group:
    (group,) = collect(rows)
    return group


def shown(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[line.label, *(c.shown for c in line.cells)] for line in table.lines]


def test_means_deviations_and_harmonic_means() -> None:
    table = layouts.halves(only(TWO_SETS))
    assert table.groups == (("MMRL", 3),)
    assert shown(table) == [
        ["Caltech101", "82.00", "70.00", "75.53"],  # 2 · 82 · 70 / 152
        ["OxfordPets", "92.00", "80.00", "85.58"],  # 2 · 92 · 80 / 172
        ["Average", "87.00", "75.00", "80.56"],  # of the averages, 2 · 87 · 75 / 162; not of 75.53 and 85.58
    ]
    base, novel, _ = table.lines[0].cells
    assert (base.spread, novel.spread) == ("1.63", "1.63")  # √(8/3), not √4
    assert table.lines[2].cells[0].spread == "1.63"  # of the averages 85, 87, 89
    assert table.lines[2].total
    assert not any(c.best for line in table.lines for c in line.cells)  # a single method is not the best


def test_the_best_is_marked_and_ties_share_it() -> None:
    rows = [
        *halves("mmrl", "dtd", 1, 80.001, 60.0),
        *halves("mmrlpp", "dtd", 1, 80.004, 65.0),
        *halves("coop", "dtd", 1, 70.0, 64.0),
    ]
    table = layouts.halves(only(rows))
    assert [name for name, _ in table.groups] == ["CoOp", "MMRL", "MMRL++"]
    assert [c.best for c in table.lines[0].cells] == [False, False, False, True, False, False, True, True, True]


def test_missing_seeds_and_data_sets_are_marked() -> None:
    rows = [
        *TWO_SETS,
        *halves("mmrlpp", "caltech101", 1, 99.0, 99.0),
        *halves("mmrlpp", "caltech101", 2, 99.0, 99.0),
        *halves("zero-shot", "caltech101", 1, 60.0, 60.0),
        *halves("zero-shot", "oxford_pets", 1, 60.0, 60.0),
    ]
    table = layouts.halves(only(rows))
    zero, mmrl, mmrlpp = (table.lines[0].cells[i] for i in (0, 3, 6))
    assert zero.sd is None
    assert (zero.note, mmrl.note, mmrlpp.note) == ("", "", "2/3")  # no seed changes zero-shot
    average = table.lines[2].cells
    assert average[6].note == "1/2 sets"
    assert average[6].partial
    assert average[3].best  # 99 of one data set is not better than 87 of two
    assert not average[6].best
    assert {layouts.FEWER, layouts.PARTIAL} <= set(table.notes)
    assert shown(table)[1][-1] == "–"


def test_a_method_without_novel_classes() -> None:
    rows = [row(method="tip-adapter", accuracy=81.0), *halves("mmrl", "caltech101", 1, 80.0, 70.0)]
    assert shown(layouts.halves(only(rows)))[0][1:4] == ["81.00", "–", "–"]


def test_few_shot_by_shots() -> None:
    rows = [
        row(
            method=method, protocol="few-shot", split="all", shots=shots, seed=seed, accuracy=a + shots + seed, source=s
        )
        for method, a in (("mmrl", 50.0), ("coop", 45.0))
        for shots in (1, 16)
        for seed in (1, 2)
        for s in ("dtd", "eurosat")
    ]
    table = layouts.few_shot(only(rows))
    assert table.groups == (("1 shot", 2), ("16 shots", 2))
    assert table.columns == ("CoOp", "MMRL", "CoOp", "MMRL")
    assert shown(table)[2] == ["Average", "47.50", "52.50", "62.50", "67.50"]
    assert [c.best for c in table.lines[2].cells] == [False, True, False, True]


def test_transfer_averages_targets_only() -> None:
    rows = [
        *transfers("mmrl", "imagenet", 1, {"imagenet": 72.0, "dtd": 40.0, "eurosat": 50.0}, "cross-dataset"),
        *transfers("coop", "imagenet", 1, {"imagenet": 71.0, "dtd": 42.0, "eurosat": 44.0}, "cross-dataset"),
    ]
    table = layouts.transfer(only(rows))
    assert table.columns == ("ImageNet", "DTD", "EuroSAT", "Average")
    assert shown(table) == [
        ["CoOp", "71.00", "42.00", "44.00", "43.00"],
        ["MMRL", "72.00", "40.00", "50.00", "45.00"],
    ]
    assert [c.best for c in table.lines[0].cells] == [False, True, False, False]


def test_a_setting_chosen_by_target_is_one_column() -> None:
    rows = transfers("mmrlpp", "imagenet", 1, {"imagenet": 72.0, "dtd": 40.0, "eurosat": 50.0}, "cross-dataset")
    extra: list[Row] = [
        {**rows[1], "variant": "beta 0.5 by target", "accuracy": 44.0},
        {**rows[2], "variant": "beta 0.3 by target", "accuracy": 54.0},
    ]
    table = layouts.transfer(only([*rows, *extra]))
    assert shown(table)[1] == ["MMRL++ (beta by target)", "–", "44.00", "54.00", "49.00"]


def test_the_same_under_other_settings_is_another_column() -> None:
    rows = [
        *halves("mmrl", "dtd", 1, 80.0, 60.0, settings={"alpha": 0.7, "rep_dim": 512}),
        *halves("mmrl", "dtd", 1, 70.0, 50.0, settings={"alpha": 0.3, "rep_dim": 512}),
        *halves("mmrl", "eurosat", 1, 71.0, 51.0, settings={"alpha": 0.3, "rep_dim": 2048}),
    ]
    group = only(rows)
    assert sorted(e.label for e in group.entries) == ["MMRL (alpha 0.3)", "MMRL (alpha 0.7)"]
    twice = [*halves("mmrl", "dtd", 1, 80.0, 60.0), *halves("mmrl", "dtd", 1, 81.0, 61.0, finished="2027")]
    assert shown(layouts.halves(only(twice)))[0] == ["DTD", "81.00", "61.00", "69.59"]  # the later one


def test_conditions_are_not_mixed() -> None:
    rows = [
        *halves("mmrl", "dtd", 1, 80.0, 60.0),
        *halves("mmrl", "dtd", 1, 81.0, 60.0, preset="paper"),
        *halves("mmrl", "dtd", 1, 82.0, 60.0, shots=4),
        *halves("mmrl", "dtd", 1, 83.0, 60.0, backbone="ViT-B/16"),
        *halves("mmrl", "dtd", 1, 84.0, 60.0, "open"),
    ]
    assert len(collect(rows)) == 5
    free = halves("zero-shot", "dtd", 1, 50.0, 50.0, shots=0)  # needs no images: stands beside both numbers of shots
    groups = collect([*rows[:2], *rows[4:6], *free])
    assert [[e.label for e in g.entries] for g in groups] == [["Zero-shot CLIP", "MMRL"]] * 2


def test_ours_beside_published() -> None:
    table = published.comparison(only(TWO_SETS))
    assert shown(table)[0] == [
        "Caltech101",
        "82.00",
        "98.97",
        "−16.97",
        "70.00",
        "94.50",
        "−24.50",
        "75.53",
        "96.68",
        "−21.15",
    ]
    average = shown(table)[2]
    assert average[:3] == ["Average of these 2", "87.00", "97.44"]  # (98.97 + 95.90) / 2
    assert average[5] == "96.05"  # (94.50 + 97.60) / 2
    assert average[8] == "96.74"  # 2 · 97.435 · 96.05 / 193.485
    assert table is not None
    assert any("not comparable" in note for note in table.notes)
    there = published.comparison(only([{**r, "backbone": "ViT-B/16"} for r in TWO_SETS]))
    assert there is not None
    assert not any("not comparable" in note for note in there.notes)


def test_no_published_number_where_there_is_none() -> None:
    for rows in (
        halves("mmrl", "icons", 1, 80.0, 60.0),
        halves("mmrlpp", "dtd", 1, 80.0, 60.0),
        halves("mmrl", "dtd", 1, 80.0, 60.0, shots=4),
        halves("mmrl", "dtd", 1, 80.0, 60.0, "open"),
        transfers("mmrl", "dtd", 1, {"dtd": 1.0, "eurosat": 2.0}, "cross-dataset"),
    ):
        assert published.comparison(only(rows)) is None


def test_the_published_tables() -> None:
    assert len(published.read("base_to_novel")) == 144
    assert len(published.read("few_shot")) == 420
    assert published.lookup("few-shot", "linear-probe", "imagenet", "accuracy", 1) == 32.13
    assert published.lookup("domain-generalization", "mmrl", "imagenet_a", "accuracy") == 51.20
    assert published.parameters("mmrl") == 4_992_000
    assert published.of_ablation("variants", "w/o DS2", ()) == (85.68, 73.80, 79.30)
    assert published.of_ablation("rep-dim", "32", ()) == (85.27, 76.85, 80.84)
    assert published.of_ablation("regulariser", "l1", ()) == (85.46, 76.03, 80.47)
    assert published.of_ablation("lambda", "0.0", ("imagenet",)) == (77.73, 70.63, 74.01)  # Table 5 misprints 73.96
    assert published.of_ablation("lambda", "0.5", ("dtd", "imagenet")) == (None, None, None)


def test_published_tables_are_those_given() -> None:
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in published.FOLDER.glob("*.csv")}
    assert digests == {name: digest for digest, name in map(str.split, TABLES.read_text().splitlines())}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ViT-B/16", True), ("vit-b-16", True), ("openai/clip-vit-base-patch16", True), ("/data/ViT-B-16.pt", True),
        ("ViT-B/32", False), ("icon-clip", False), ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", False),
    ],
)  # fmt: skip
def test_which_backbone_is_the_papers(name: str, same: bool) -> None:
    assert is_reference(name) is same
    caveats = build(halves("mmrl", "dtd", 1, 80.0, 60.0, backbone=name)).caveats
    assert bool(caveats) is not same


def test_ablations_have_a_line_a_variant() -> None:
    rows = [
        r
        for variant, base in (("full", 80.0), ("w/o L", 78.0), ("w/o V", 76.0))
        for dataset in ("dtd", "eurosat")
        for r in halves("mmrl", dataset, 1, base, 60.0, ablation="variants", variant=variant)
    ]
    (table,) = ablations.tables(only(rows))
    assert [line.label for line in table.lines] == ["w/o L", "w/o V", "full"]
    assert shown(table)[2] == ["full", "80.00", "60.00", "68.57", "85.68", "77.16", "81.20"]
    assert table.lines[2].cells[0].best
    assert not table.lines[2].cells[3].best
    dims = [
        r for dim in (2048, 32, 512) for r in halves("mmrl", "dtd", 1, 80.0, 60.0, ablation="rep-dim", variant=str(dim))
    ]
    assert [line.label for line in ablations.tables(only(dims))[0].lines] == ["32", "512", "2048"]


def test_costs() -> None:
    rows = [
        row(seed=1, train_seconds=10.0, predict_seconds=2.0, peak_memory_mb=500.0, parameters=7),
        row(seed=2, train_seconds=20.0, predict_seconds=4.0, peak_memory_mb=700.0, parameters=7),
    ]
    table = costs.table(only(rows))
    assert shown(table) == [["MMRL", "7", "15.0", "30.00", "700", "4,992,000"]]


def test_confusions_are_summed_by_seed() -> None:
    rows = [
        row(seed=1, confusions=[["cat", "dog", 6], ["dog", "fox", 2]]),
        row(seed=2, confusions=[["cat", "dog", 3]]),
        row(seed=1, method="mmrlpp", confusions=[["dog", "fox", 5]]),
    ]
    assert shown(confusions(only(rows), "caltech101")) == [["dog", "fox", "1.0", "5.0"], ["cat", "dog", "4.5", "–"]]
    assert confusions(only([row()]), "caltech101") is None


def test_mistakes_on_which_methods_differ_come_first() -> None:
    def example(key: str, guess: str) -> dict[str, Any]:
        return {"key": key, "truth": "cat", "guess": guess, "probability": 0.5}

    rows = [
        row(examples=[example("a", "dog"), example("b", "cat"), example("c", "fox"), example("d", "fox")]),
        row(method="mmrlpp", examples=[example("a", "cat"), example("b", "cat"), example("c", "fox")]),
    ]
    made = sheet(only(rows), "caltech101", lambda dataset, key: f"data:{dataset}/{key}" if key == "a" else None)
    assert made is not None
    parts = dict(made.parts)
    (differing,) = parts["Where methods differ"]
    assert differing.key == "a"
    assert [(g.method, g.name, g.right) for g in differing.guesses] == [
        ("MMRL", "dog", False),
        ("MMRL++", "cat", True),
    ]
    assert differing.thumbnail == "data:caltech101/a"
    assert [p.key for p in parts["Wrong"]] == ["c", "d"]
    assert [p.key for p in parts["Right"]] == ["b"]


def test_results_of_several_places(tmp_path: Path) -> None:
    good = halves("mmrl", "dtd", 1, 80.0, 60.0, run="x")
    bad = failed("x", "no room")
    write(tmp_path / "one" / "rows.jsonl", [*good, failed("y", "no room")])
    two = write(tmp_path / "two.jsonl", [bad, *halves("mmrl", "dtd", 2, 82.0, 60.0, run="y")])
    for places in ([tmp_path / "one", two], [two, tmp_path / "one"]):
        rows = load(places)
        assert len(rows) == 4
        assert all(r["status"] == "done" for r in rows)
    assert build(load([tmp_path / "one"])).failed is not None


def test_a_report_in_words() -> None:
    report = build(
        [*TWO_SETS, *(r for d in ("caltech101", "oxford_pets") for r in halves("zero-shot", d, 1, 70.0, 70.0))]
    )
    assert (
        report.headline
        == "Base to novel, 2 data sets: MMRL is best with 80.6 % (average HM), 10.6 points above Zero-shot CLIP."
    )
    facts = dict(report.facts)
    assert facts["Seeds"] == "1, 2, 3"
    assert facts["Runs"] == "8 finished"
    assert facts["Machine"] == "Some CPU, 2 cores, 1 thread, Linux"
    assert facts["Date"] == "2026-11-22"
    assert shown(report.summary[0])[1] == ["MMRL", "87.00", "75.00", "80.56", "4,992,256"]


def test_the_headline_compares_what_all_have() -> None:
    rows = [*TWO_SETS, *halves("zero-shot", "caltech101", 1, 70.0, 70.0)]
    assert build(rows).headline == (
        "Base to novel, 1 data set that all have: MMRL is best with 75.5 % (HM), 5.5 points above Zero-shot CLIP."
    )


def test_only_failed_runs_still_make_a_report() -> None:
    report = build([failed("x", "no room")])
    assert report.headline == "No run has finished."
    assert shown(report.failed)[0][-1] == "no room"


def test_unknown_protocols_and_broken_numbers() -> None:
    with pytest.raises(DataError, match="The results are of zoo, but a report is made of base-to-novel"):
        build([row(protocol="zoo")])
    rows = [*halves("mmrl", "dtd", 1, float("nan"), 60.0), *halves("mmrlpp", "dtd", 1, 70.0, 60.0)]
    assert shown(layouts.halves(only(rows)))[0] == ["DTD", "–", "60.00", "–", "70.00", "60.00", "64.62"]


def test_numbers_as_they_are_shown() -> None:
    assert Cell(-0.001, signed=True).shown == "±0.00"
    assert Cell(1.239, signed=True).shown == "+1.24"
    assert Cell(-1.5, signed=True).shown == "−1.50"
    assert Cell(4_992_256, digits=0).shown == "4,992,256"
    assert Cell().shown == "–"


def test_everything_has_a_section() -> None:
    report = build(everything())
    assert [s.title for s in report.sections] == [
        "Base to novel", "Open: base and novel together", "Few-shot", "Cross-dataset", "Domain generalisation",
        "Ablation: dimension of the representation space", "Ablation: without one part",
    ]  # fmt: skip
    assert report.failed is not None
