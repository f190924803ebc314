"""The corpus of icons: which sets are used, what an icon's name says, and its drawing as pixels.

Source: the npm package ``@iconify/json`` (pinned below), fetched with ``npm pack``.  ``collections.json`` gives each
set's licence; only sets under MIT, Apache-2.0, CC0-1.0 or ISC are used.  Sets of brand logos, of programming-language
and file-type logos, and of national flags are left out: their names are proper names, not words for a drawing.

Three groups of sets are kept away from pre-training as a whole, drawings and names:

- ``COLOUR_EMOJI``, the drawings of the embedded data set ``icons``;
- ``MONO_EMOJI``, those of ``kinds-mono``;
- ``CONCEPT_SETS``, those of ``concepts``.

Drawings are rasterised once by ``resvg-py`` in two processes and kept in a cache folder outside the repository.
"""

# ruff: noqa: SIM905 (lists of words read better as words)
from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

ICONIFY, EMOJI = "@iconify/json@2.2.535", "emoji-datasource@16.0.0"
LICENCES = {"MIT", "Apache-2.0", "CC0-1.0", "ISC"}
SIZE = 64  # pixels a side of the rasterised drawing

LEFT_OUT = {
    *("bxl cib cryptocurrency cryptocurrency-color logos nonicons simple-icons thesvg thesvg-color token").split(),
    *("token-branded catppuccin devicon devicon-plain file-icons gcp k8s material-icon-theme skill-icons").split(),
    *("unjs vscode-icons cif circle-flags flag flagpack svg-spinners ginetex").split(),
}
COLOUR_EMOJI = "noto noto-v1 fluent-emoji fluent-emoji-flat fxemoji".split()
MONO_EMOJI = "fluent-emoji-high-contrast dinkie-icons".split()
CONCEPT_SETS = (
    "akar-icons bi bytesize charm clarity codex cuida duo-icons ei ep eva fe flowbite fontisto formkit foundation "
    "garden gg gravity-ui grommet-icons humbleicons icons8 il iwwa jam la lineicons mage majesticons mi mono-icons "
    "mynaui nimbus octicon oi ooui oui pajamas prime proicons quill radix-icons simple-line-icons stash teenyicons "
    "topcoat uiw vaadin weui wpf zondicons"
).split()
HELD_OUT = {*COLOUR_EMOJI, *MONO_EMOJI, *CONCEPT_SETS}

# Sets by the same hand, or one redrawn from another, count as one source.
FAMILIES = {
    "material": "ic material-symbols material-symbols-light",
    "fluent": "fluent fluent-color",
    "boxicons": "boxicons bx bxs",
    "unicons": "uil uim uis uit",
    "heroicons": "heroicons heroicons-outline heroicons-solid sidekickicons",
    "lucide": "lucide lucide-lab feather vadivam",
    "icon-park": "icon-park icon-park-outline icon-park-solid icon-park-twotone",
    "ion": "ion famicons",
    "mono": "mi mono-icons",
    "maps": "maki temaki pinhead osmic",
    "icons8": "icons8 wpf",
    "glyphs": "glyphs glyphs-poly",
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names.split()}

STYLES = set(
    "outline outlined filled fill solid line linear bold thin duotone twotone rounded round sharp regular broken bulk "
    "alt variant baseline ios md stroke negative rtl o f px poly duo".split()
)
SIZES = re.compile(r"^(\d+|\d+px|\d+x\d+)$")


@dataclass(frozen=True)
class Icon:
    set: str
    name: str
    caption: str
    colour: bool
    categories: tuple[str, ...]

    @property
    def family(self) -> str:
        return FAMILY.get(self.set, self.set)


def fetch(package: str, work: Path) -> Path:
    """The folder of an npm package, packed by npm into ``work`` unless it is there already."""
    folder = work / re.sub(r"\W+", "-", package).strip("-")
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        out = subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, capture_output=True, text=True)
        with tarfile.open(work / out.stdout.split()[-1]) as tar:
            tar.extractall(folder, filter="data")
    return folder / "package"


def collections(package: Path) -> dict[str, dict[str, Any]]:
    """The sets that may be used: permissive licence, no logos, no national flags."""
    every = json.loads((package / "collections.json").read_text())
    return {k: v for k, v in every.items() if v["license"].get("spdx") in LICENCES and k not in LEFT_OUT}


def read_set(package: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((package / "json" / f"{name}.json").read_text())
    return data


def caption(name: str, affixes: Iterable[str] = ()) -> str:
    """The words of an icon's name, less the words for its style: ``calendar-plus-24-filled`` → ``calendar plus``."""
    for affix in sorted((a for a in affixes if a), key=len, reverse=True):
        if name.endswith("-" + affix):
            name = name[: -len(affix) - 1]
            break
        if name.startswith(affix + "-"):
            name = name[len(affix) + 1 :]
            break
    words = [w for w in re.split(r"[-_]+", name) if w]
    kept = [w for w in words if w not in STYLES]
    while len(kept) > 1 and SIZES.match(kept[-1]):
        kept.pop()
    if not kept:
        kept = words
    return " ".join(re.sub(r"(?<=[a-z])\d+$", "", w) if len(w) > 3 else w for w in kept)


def icons(package: Path, sets: Iterable[str], per_caption: int = 3) -> Iterator[Icon]:
    """The icons of some sets; of one set's drawings with the same caption the first ``per_caption``, evenly spread."""
    for prefix in sets:
        data = read_set(package, prefix)
        affixes = [*data.get("suffixes", {}), *data.get("prefixes", {})]
        colour = bool(data["info"].get("palette"))
        categories: dict[str, list[str]] = defaultdict(list)
        for label, names in data.get("categories", {}).items():
            for name in names:
                categories[name].append(label.lower())
        same: dict[str, list[str]] = defaultdict(list)
        for name, body in data["icons"].items():
            if not body.get("hidden"):
                same[caption(name, affixes)].append(name)
        for words, names in same.items():
            step = max(1.0, len(names) / per_caption)
            for i in range(min(len(names), per_caption)):
                name = names[int(i * step)]
                yield Icon(prefix, name, words, colour, tuple(categories[name]))


def rasterise(body: str, box: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
    """One icon as RGBA pixels, its longer side filling the square."""
    left, top, width, height = box
    side = max(width, height)
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view}" '
        f'width="{SIZE}" height="{SIZE}">{body.replace("currentColor", "#000")}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _rasterise_set(job: tuple[Path, str, list[str]]) -> npt.NDArray[np.uint8]:
    package, prefix, names = job
    data = read_set(package, prefix)
    out = np.zeros((len(names), SIZE, SIZE, 4), np.uint8)
    for i, name in enumerate(names):
        icon = data["icons"][name]
        get = [icon.get(k, data.get(k, d)) for k, d in (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
        with contextlib.suppress(ValueError):  # a drawing that resvg cannot read stays empty
            out[i] = rasterise(icon["body"], (get[0], get[1], get[2], get[3]))
    return out


def draw(package: Path, wanted: list[Icon], cache: Path) -> npt.NDArray[np.uint8]:
    """RGBA drawings of icons, in order, memory-mapped from the cache; drawn there first if need be."""
    key = json.dumps([asdict(icon) for icon in wanted])
    array, index = cache.with_suffix(".npy"), cache.with_suffix(".json")
    if not (array.exists() and index.exists() and index.read_text() == key):
        by_set: dict[str, list[int]] = defaultdict(list)
        for i, icon in enumerate(wanted):
            by_set[icon.set].append(i)
        chunks = [(s, part[i : i + 500]) for s, part in by_set.items() for i in range(0, len(part), 500)]
        cache.parent.mkdir(parents=True, exist_ok=True)
        out = np.lib.format.open_memmap(array, "w+", np.uint8, (len(wanted), SIZE, SIZE, 4))
        with Pool(2) as pool:
            jobs = [(package, s, [wanted[i].name for i in part]) for s, part in chunks]
            for (_, part), pixels in zip(chunks, pool.imap(_rasterise_set, jobs), strict=True):
                out[part] = pixels
        out.flush()
        index.write_text(key)
    drawings: npt.NDArray[np.uint8] = np.load(array, mmap_mode="r")
    return drawings
