"""Makes splits.csv and picks.csv from the published split files and the published picks; how we come by them, and a check.

    python tests/published/make_picks.py SPLITS

SPLITS holds `fewshot_sha256.csv` (data set, shots, seed, split, count, sha256 of the picked paths) and the split files
`split_zhou_*.json`, wherever below it. The split files' lists of paths are not ours to ship, and the picks do not depend
on paths: what is written is how many images of each class follow each other, and a hash of the picks' positions. The
positions are computed by fewclip and written only if the paths at them have the published hash.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fewclip.data.benchmarks.table import BENCHMARKS
from fewclip.data.dataset import Dataset

HERE = Path(__file__).parent


def digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def main(folder: Path) -> None:
    with (folder / "fewshot_sha256.csv").open() as file:
        wanted = list(csv.DictReader(file))
    files = {path.name: path for path in folder.rglob("split_zhou_*.json")}
    runs: list[tuple[object, ...]] = [("dataset", "split", "label", "count")]
    picks: list[tuple[object, ...]] = [("dataset", "shots", "seed", "split", "count", "sha256")]
    for key in dict.fromkeys(row["dataset"] for row in wanted):
        content = json.loads(files[BENCHMARKS[key].split_file].read_text(encoding="utf-8"))
        parts: dict[str, Dataset] = {}
        for split in ("train", "val"):
            labels = [label for _, label, _ in content[split]]
            runs += [(key, split, label, len(list(same))) for label, same in itertools.groupby(labels)]
            classes = tuple(str(i) for i in range(max(labels) + 1))
            positions = [str(i) for i in range(len(labels))]
            parts[split] = Dataset(key, classes, positions, labels, positions, published=True)
        for row in (row for row in wanted if row["dataset"] == key):
            train, val = parts["train"].few_shot_and_val(parts["val"], int(row["shots"]), int(row["seed"]))
            keys = {"train": train, "val": val}[row["split"]].keys
            paths = [content[row["split"]][int(i)][0] for i in keys]
            assert digest(paths) == row["sha256"], row
            picks.append((key, row["shots"], row["seed"], row["split"], len(keys), digest(keys)))
    for name, lines in (("splits.csv", runs), ("picks.csv", picks)):
        with (HERE / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
