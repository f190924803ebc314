"""How far base-to-novel rows rank the methods as the papers do.

    python benchmarks/ranking.py docs/results/all-methods/icons

For each data set a table of base, novel and harmonic mean, best first, and Spearman's rank correlation with the averages
of Table 1 of the MMRL paper (11 data sets, ViT-B/16) over the methods that are in both.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from statistics import correlation, mean, pstdev

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from fewclip.bench.evaluation import harmonic_mean  # noqa: E402
from fewclip.bench.rows import read_rows  # noqa: E402
from fewclip.files.markdown import markdown_table  # noqa: E402
from fewclip.report.published import lookup  # noqa: E402

SPLITS = ("base", "novel")


def measured(place: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Data set → method → split → the accuracy of each seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read_rows(place):
        if row["protocol"] == "base-to-novel" and row["status"] == "done":
            found[row["dataset"]][row["method"]][row["split"]].append(row["accuracy"])
    return found


def agreement(ours: dict[str, tuple[float, float, float]]) -> str:
    """Rank correlations of base, novel and harmonic mean with the published averages."""
    theirs = {
        method: tuple(lookup("base-to-novel", method, "Average", column) for column in ("base", "novel", "hm"))
        for method in ours
    }
    both = [method for method, values in theirs.items() if None not in values]
    rho = [
        correlation(ranks([ours[m][i] for m in both]), ranks([float(theirs[m][i] or 0) for m in both]))
        for i in range(3)
    ]
    return f"{len(both)} methods in both; rank correlation: base {rho[0]:.2f}, novel {rho[1]:.2f}, HM {rho[2]:.2f}"


def ranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def main() -> None:
    for dataset, methods in measured(Path(sys.argv[1])).items():
        ours = {}
        for method, splits in methods.items():
            base, novel = (mean(splits[split]) for split in SPLITS)
            ours[method] = (base, novel, harmonic_mean(base, novel))
        lines = []
        for method in sorted(ours, key=lambda m: -ours[m][2]):
            spread = [f"{mean(v):.1f} ± {pstdev(v):.1f}" for v in (methods[method][split] for split in SPLITS)]
            seeds = len(methods[method]["base"])
            lines.append([method, *spread, f"{ours[method][2]:.1f}", str(seeds)])
        table = markdown_table(("method", "base", "novel", "HM", "seeds"), lines)
        print(f"\n{dataset}\n\n{table}\n\n{agreement(ours)}")


if __name__ == "__main__":
    main()
