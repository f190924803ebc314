"""The benchmarks run on tiny sizes, with torch, numpy, Pillow, safetensors and tokenizers alone. Nothing here is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bare import BLOCK, ROOT, run

sys.path.append(str(ROOT / "benchmarks"))

import bench

from fewclip.methods import METHODS


def bare(script: str, *arguments: str, block: str = BLOCK) -> str:
    """Run a script where nothing but the five packages can be imported."""
    path = ROOT / "benchmarks" / script
    code = f"{block}\nimport runpy\nsys.argv[0] = {str(path)!r}\nsys.path[0] = {str(path.parent)!r}\n"
    return run(code + f"runpy.run_path({str(path)!r}, run_name='__main__')", *arguments)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return found


def test_train_step(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    tiny = ("--backbone=tiny", "--repeats=1", "--threads=1", "--batch=2", f"--json={out}")
    bare("train_step.py", *tiny, "--classes=3", "--methods=mmrl", "--plain")
    (row,) = rows(out)
    assert row["ratio"] > 0
    assert row["plain_ratio"] > 0
    assert row["loss_error"] < 1e-5
    assert row["gradient_error"] < 1e-4
    assert row["ours_peak_mib"] > row["ours_before_step_mib"] > 50
    assert row["naive_peak_mib"] > 50
    assert row["gflop"] > 0

    bare("train_step.py", *tiny, "--classes=3", "--methods=mmrl,coop", "--no-memory", "--max-gib=0")
    assert {row["method"] for row in rows(out)} == {"mmrl", "coop"}
    for row in rows(out):
        assert "ratio" not in row
        assert row["ours_ms"] > 0
        assert row["naive_peak_mib_predicted"] > 0


def test_train_step_measures_every_method(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    tiny = ("--backbone=tiny", "--repeats=1", "--threads=1", "--batch=2", "--classes=3", "--no-memory", f"--json={out}")
    bare("train_step.py", *tiny, "--methods=all")
    assert [row["method"] for row in rows(out)] == list(METHODS)
    untrained = {row["method"] for row in rows(out) if row.get("note", "").startswith("skipped: no training steps")}
    assert untrained == {"zero-shot", "linear-probe", "tip-adapter"}
    for row in rows(out):
        if row["method"] not in untrained:
            assert row["naive_ms"] > 0
            assert row["loss_error"] < 1e-4
            assert row["gradient_error"] < 1e-4
            assert row["gflop_ratio"] > (0.99 if row["method"] in ("tip-adapter-f", "provp") else 1.2), row["method"]


def test_predict(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    bare("predict.py", "--backbone=tiny", "--repeats=1", "--batch=2", "--classes=3", "--methods=mmrl", f"--json={out}")
    (row,) = rows(out)
    assert row["ratio"] > 0
    assert row["ratio_stock"] > 0
    assert row["note"] == "transformers is not installed"


def test_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    bare("end_to_end.py", "--data=icons,nowhere", "--shots=1", "--epochs=1", f"--json={out}", block="import sys")
    row, absent = rows(out)
    assert "skipped" in absent["note"]
    seconds = sum(row[k] for k in ("prepare", "wait", "image", "text", "image_back", "text_back", "optimiser", "rest"))
    assert abs(seconds - row["fit_s"]) < 0.1
    assert all(row[k] > 0 for k in ("image_back", "text_back", "decode", "augment"))


def test_the_table_says_what_was_not_measured(tmp_path: Path) -> None:
    empty = bench.summary(bench.Results(tmp_path))
    assert all(row["got"].startswith("not measured") for row in empty)
    step = {"classes": 400, "ratio": 12.5, "ours_ms": 1.0}
    (tmp_path / "step_b8_c400.json").write_text(json.dumps({"rows": [step]}))
    extrapolated = {"classes": 1000, "ratio_extrapolated": 11.0, "ours_ms": 1.1, "note": "naive needs about 24 GiB"}
    measured = {"classes": 500, "ratio": 9.0, "ours_ms": 1.0}
    (tmp_path / "step_b32.json").write_text(json.dumps({"rows": [measured, extrapolated]}))
    table = {row["measure"]: row for row in bench.summary(bench.Results(tmp_path))}
    assert table["CPU step, 400 classes, batch 8"]["reached"] == "yes"
    assert table["CPU step, 50 classes, batch 4"]["reached"] == "-"
    assert "extrapolated" in table["CPU step, 1000 classes, batch 32"]["got"]
    assert table["CPU step, 1000 classes, batch 32"]["reached"] == "-"
    assert table["step time, 500 to 1000 classes, batch 32"] == {
        "measure": "step time, 500 to 1000 classes, batch 32",
        "at least": "< +20 %",
        "got": "+10 %",
        "reached": "yes",
    }


def test_commands_make_what_the_table_reads() -> None:
    for quick in (True, False):
        for script, *_ in bench.commands(quick).values():
            assert (ROOT / "benchmarks" / script).is_file()
