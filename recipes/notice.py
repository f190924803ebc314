"""Write NOTICE: every icon set that went into the embedded weights or data sets, its author and its licence.

python recipes/notice.py --work /tmp/icons
"""

from __future__ import annotations

import argparse
from pathlib import Path

from corpus import COLOUR_EMOJI, CONCEPT_SETS, EMOJI, HELD_OUT, ICONIFY, LICENCES, MONO_EMOJI, collections, fetch

HEAD = f"""fewclip
Copyright (c) 2026 The fewclip authors. MIT licence, see LICENSE.

The package contains material made from icon sets by other authors, collected in the npm package {ICONIFY}.
Only sets under one of these licences were used: {", ".join(sorted(LICENCES))}.

- src/fewclip/clip/icon_clip: weights trained on rasterised icons of the sets under A. No drawing is contained.
- src/fewclip/data/embedded/icons.zip: rasterised icons of the sets under B.
- src/fewclip/data/embedded/kinds-mono.zip: rasterised icons of the sets under C and D.
- src/fewclip/data/embedded/concepts.zip: rasterised icons of the sets under D.

The names and subcategories of emoji come from the npm package {EMOJI} (MIT, Cal Henderson and contributors),
after Unicode's emoji data.

src/fewclip/clip/bpe_merges.txt.gz holds the 48,894 byte-pair merges of CLIP's vocabulary, in order, taken from
bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP (https://github.com/openai/CLIP), which open_clip_torch redistributes.
CLIP is published under the MIT licence, Copyright (c) 2021 OpenAI. The file is data only; the vocabulary is built from
it by fewclip's own code (src/fewclip/clip/tokenizer.py).

The texts of the licences (CC0-1.0 asks for none) stand at the end.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/fewclip-icons"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "NOTICE")
    args = parser.parse_args()
    package = fetch(ICONIFY, args.work)
    every = collections(package)
    parts = [HEAD]
    for title, sets in (
        ("A. Pre-training", [s for s in every if s not in HELD_OUT]),
        ("B. icons", COLOUR_EMOJI),
        ("C. kinds-mono", MONO_EMOJI),
        ("D. concepts, kinds-mono", CONCEPT_SETS),
    ):
        parts.append(f"{title} ({len(sets)} sets)\n")
        for name in sorted(sets):
            info = every[name]
            author, licence = info["author"], info["license"]
            lines = [
                f"- {info['name']} ({name}), {author['name']}",
                f"  {licence['spdx']} {licence.get('url', '')}".rstrip(),
            ]
            if author.get("url"):
                lines.append(f"  {author['url']}")
            parts.append("\n".join(lines))
        parts.append("")
    for text in sorted(Path(__file__).with_name("licences").glob("*.txt")):
        parts.append(f"{text.stem}\n{'=' * len(text.stem)}\n\n{text.read_text()}")
    args.out.write_text("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
