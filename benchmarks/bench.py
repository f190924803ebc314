"""All benchmarks, and the table of what was asked of them: measure, at least, got, reached.

    python benchmarks/bench.py            # everything: an hour or so on two quiet cores, up to 15 GiB
    python benchmarks/bench.py --quick    # the table's rows with fewer repeats: about 20 minutes, 11 GiB
    python benchmarks/bench.py --table    # only the table, from the results that are there

Each benchmark is a command of its own that writes a JSON file to --results; the table reads these files. A row that the
machine can't measure says why.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import torch
from common import NO_GPU, ROOT

HERE = Path(__file__).parent


def commands(quick: bool) -> dict[str, list[str]]:
    """Result file -> command. Together they make every row of the table."""
    repeats = f"--repeats={3 if quick else 5}"
    steps = ["train_step.py", "--methods=mmrl", repeats]
    made = {
        "startup": ["startup.py", repeats],
        "step_b4_c50": [*steps, "--classes=50", "--batch=4", "--plain"],
        "step_b8_c400": [*steps, "--classes=400", "--batch=8", "--plain"],
        "step_b32": [*steps, "--classes=100,200,500,1000", "--batch=32"],
        "step_many": [*steps, "--classes=5000,10000", "--batch=4", "--no-naive", "--repeats=2"],
        "predict": ["predict.py", repeats, "--methods=mmrl,mmrlpp", f"--batch={'1,32' if quick else '1,32,256'}"],
    }
    if quick:
        made["step_b32"] = [*steps, "--classes=50,100,500,1000", "--batch=32", "--max-gib=6", "--repeats=2"]
    else:
        made["step_all"] = ["train_step.py", "--classes=10,50,100", "--batch=4,8,32", "--repeats=3"]
        made["step_methods"] = ["train_step.py", "--methods=all", "--classes=50", "--batch=4", "--plain", "--repeats=3"]
        made["end_to_end"] = ["end_to_end.py"]
    if torch.cuda.is_available():
        gpu = ["train_step.py", "--methods=mmrl", "--precision=bf16", "--device=cuda", "--repeats=20"]
        made["gpu_b32_c1000"] = [*gpu, "--classes=1000", "--batch=32"]
        made["gpu_b4_c50"] = [*gpu, "--classes=50", "--batch=4"]
        made["gpu_predict"] = ["predict.py", "--device=cuda", "--precision=bf16", "--batch=32,256", "--repeats=20"]
    return made


class Results:
    """Rows of the JSON files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def row(self, file: str, **values: Any) -> dict[str, Any]:
        """The row of a file that has these values; empty if there is none."""
        path = self.folder / f"{file}.json"
        if not path.is_file():
            return {}
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        return next((row for row in rows if all(row.get(k) == v for k, v in values.items())), {})


def summary(results: Results) -> list[dict[str, Any]]:
    """The table."""
    r, rows = results.row, []

    def add(measure: str, least: str, got: float | None, ok: bool | None, text: str = "", why: str = "") -> None:
        shown = why or "not measured" if got is None else text or f"{got:.2f}"
        rows.append(
            {"measure": measure, "at least": least, "got": shown, "reached": _word(ok if got is not None else None)}
        )

    def step(measure: str, file: str, least: float, **values: Any) -> dict[str, Any]:
        row = r(file, **values)
        got, text = row.get("ratio"), f"{row.get('ratio')}×"
        reached = None if got is None else got >= least
        if got is None and "ratio_extrapolated" in row:  # shown, but an extrapolation reaches nothing
            got, text = row["ratio_extrapolated"], f"{row['ratio_extrapolated']}× extrapolated; {row['note']}"
        add(measure, f"{least:g}×", got, reached, text, row.get("note", ""))
        return row

    step("CPU step, 400 classes, batch 8", "step_b8_c400", 12)
    step("CPU step, 50 classes, batch 4", "step_b4_c50", 4)
    large = step("CPU step, 1000 classes, batch 32", "step_b32", 10, classes=1000)
    naive = large.get("naive_peak_mib") or large.get("naive_peak_mib_predicted")
    share = large["ours_peak_mib"] / naive if naive and large.get("ours_peak_mib") else None
    measured = bool(large.get("naive_peak_mib"))
    kind = "" if measured else " (naive predicted)"
    add(
        "  its peak memory against naive",
        "≤ 0.25",
        share,
        share is not None and share <= 0.25 if measured else None,
        f"{share or 0:.2f}{kind}",
    )
    half = r("step_b32", classes=500)
    growth = large["ours_ms"] / half["ours_ms"] - 1 if large.get("ours_ms") and half.get("ours_ms") else None
    add(
        "step time, 500 to 1000 classes, batch 32",
        "< +20 %",
        growth,
        (growth or 0) < 0.2,
        f"{100 * (growth or 0):+.0f} %",
    )
    many = r("step_many", classes=10000)
    text = f"{many.get('ours_ms', 0) / 1000:.1f} s a step of 4, {many.get('ours_peak_mib', 0) or 0:,} MiB"
    add("CPU, 10,000 classes", "trains", many.get("ours_ms"), True, text)
    for batch in (1, 32, 256):
        row = r("predict", batch=batch, method="mmrl")
        got = row.get("ratio")
        text = f"{got} (transformers' {row.get('ratio_transformers', '-')}, stock {row.get('ratio_stock', '-')})"
        add(f"CPU prediction to plain tower, batch {batch}", "0.95", got, (got or 0) >= 0.95, text)
    for command in ("import fewclip", "fewclip --help"):
        got = r("startup", command=command).get("seconds")
        add(command, "≤ 1.5 s", got, (got or 9) <= 1.5, f"{got} s")
    why = NO_GPU if not torch.cuda.is_available() else ""
    for measure, file, least in (
        ("GPU step, bf16, 1000 classes, batch 32", "gpu_b32_c1000", 5),
        ("GPU step, bf16, 50 classes, batch 4", "gpu_b4_c50", 5),
    ):
        got = r(file).get("ratio")
        add(measure, f"{least}×", got, (got or 0) >= least, f"{got}×", why)
    row = r("gpu_b32_c1000")
    got = row.get("ours_ms_per_image")
    add("  its ms an image (H100)", "aim 0.3", got, (got or 9) <= 0.3, f"{got} ms", why)
    got = row.get("share_of_rate")
    add("  its share of the matrix rate", "aim 0.6", got, (got or 0) >= 0.6, "", why)
    got = r("gpu_predict", batch=256, method="mmrl").get("ratio")
    add("GPU prediction to plain tower, batch 256", "0.95", got, (got or 0) >= 0.95, "", why)
    return rows


def _word(ok: bool | None) -> str:
    return "-" if ok is None else "yes" if ok else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller naive steps")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    parser.add_argument("--only", help="names of result files to make, separated by commas")
    parser.add_argument("--results", type=Path, default=ROOT / "bench", help="folder of the JSON files")
    options = parser.parse_args()
    if not options.table:
        wanted = options.only.split(",") if options.only else None
        for name, (script, *arguments) in commands(options.quick).items():
            if wanted is None or name in wanted:
                print(f"{name}: {script} {' '.join(arguments)}", flush=True)
                path = options.results / f"{name}.json"
                subprocess.run([sys.executable, str(HERE / script), *arguments, f"--json={path}"], check=False)
    print(common.table(summary(Results(options.results)), {k: k for k in ("measure", "at least", "got", "reached")}))


if __name__ == "__main__":
    main()
