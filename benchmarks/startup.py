"""Time to import fewclip and to print its help, each in a separate process.

    python benchmarks/startup.py --json rows.json

`import torch` is measured too, since no command that computes can be faster. The first start after an installation,
when Python compiles the files, is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

import common
import torch
from common import ROOT

COMMANDS = {
    "python": ["-c", ""],
    "import fewclip": ["-c", "import fewclip"],
    "fewclip --help": ["-m", "fewclip", "--help"],
    "import torch": ["-c", "import torch"],
    "from fewclip import FewShotClassifier": ["-c", "from fewclip import FewShotClassifier"],
    "fewclip methods": ["-m", "fewclip", "methods"],
    "fewclip fit --help": ["-m", "fewclip", "fit", "--help"],
}


def main() -> None:
    options = common.parser(__doc__).parse_args()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    rows: list[dict[str, Any]] = []
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        rows.append({"command": name} | common.milliseconds("wall", times[1:]) | {"first_ms": round(1000 * times[0])})
        rows[-1]["seconds"] = round(statistics.median(times[1:]), 3)
    common.write(options.json, common.machine(torch.device("cpu")), rows)
    print(common.table(rows, {"command": "command", "seconds": "seconds", "first_ms": "first start, ms"}))


if __name__ == "__main__":
    main()
