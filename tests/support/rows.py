"""The classifier behind tables of numbers: each row becomes a small grey picture. scikit-learn's own checks fit such tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils.validation import validate_data

from fewclip import FewShotClassifier


class Rows(FewShotClassifier):
    """Whether a table may be sparse, hold NaN or change its number of columns is scikit-learn's to check, not ours."""

    def fit(self, data: Any, labels: Any = None, **options: Any) -> Rows:
        if labels is None:
            raise ValueError("Rows requires y to be passed, but the target y is None")
        super().fit(self.pictures(data, reset=True), labels, **options)
        return self

    def scores(self, images: Any, classes: Any = None) -> Any:
        self._fitted()
        return super().scores(self.pictures(images), classes)

    def score(self, data: Any, labels: Any = None, **options: Any) -> float:
        self._fitted()
        return super().score(self.pictures(data), labels, **options)

    def pictures(self, table: Any, *, reset: bool = False) -> list[Image.Image]:
        if isinstance(table, list) and table and isinstance(table[0], Image.Image):  # from `score`
            return table
        rows = (128 + 30 * validate_data(self, table, reset=reset)).clip(0, 255).astype(np.uint8)
        return [Image.fromarray(np.resize(row, (16, 16))).convert("RGB") for row in rows]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.target_tags.required = True, False, True
        return tags
