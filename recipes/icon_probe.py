"""How much there is to learn: a logistic regression on icon-clip's frozen image features, against zero-shot.

    python recipes/icon_probe.py

Trained on the 16 images of each base class, tested on the base test images; the best of three penalties on the test
split, so an upper bound. Features are the class token before and behind the projection. Takes half a minute.
Result on 2 shared cores, 2026-11-22: see docs/notes/icons.md.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fewclip import CLIP, FewShotClassifier
from fewclip.bench.evaluation import choose, evaluate
from fewclip.data.dataset import Dataset
from fewclip.data.embedded import EMBEDDED
from fewclip.data.read import read_data

PENALTIES = (0.001, 0.01, 0.1)


@torch.no_grad()
def features(clip: CLIP, data: Dataset, projected: bool) -> NDArray[np.float32]:
    """Class tokens (images, width), or image features (images, dim) if `projected`."""
    assert clip.preprocess is not None
    stem = clip.visual.stem(clip.preprocess.batch(data.images))
    tokens = clip.visual.ln_post(clip.visual.finish(stem)[:, 0])
    found: NDArray[np.float32] = (tokens @ clip.visual.proj if projected else tokens).numpy()
    return found


def probe(clip: CLIP, train: Dataset, test: Dataset, projected: bool) -> float:
    """The best accuracy in per cent over the penalties."""
    scaler = StandardScaler().fit(features(clip, train, projected))
    x, y = (scaler.transform(features(clip, data, projected)) for data in (train, test))
    scores = [LogisticRegression(C=c, max_iter=2000).fit(x, train.labels).score(y, test.labels) for c in PENALTIES]
    return 100 * float(max(scores))


def main() -> None:
    clip = CLIP.from_pretrained("icon-clip")
    for name in EMBEDDED:
        train, test = read_data(name), read_data(name, "test")
        classes = train.halves()[0]
        base, tested = train.only(classes), choose(test, classes, "base")
        zero_shot = evaluate(FewShotClassifier("zero-shot", clip, shots=None).fit(base).adapter_, tested).accuracy
        before, behind = (probe(clip, base, tested, projected) for projected in (False, True))
        print(f"{name}: zero-shot {zero_shot:.1f}, probe before the projection {before:.1f}, behind it {behind:.1f}")


if __name__ == "__main__":
    main()
