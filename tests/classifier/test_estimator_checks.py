"""scikit-learn's own checks of an estimator (`check_estimator`), on a tiny CLIP. The few left out are named with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import Rows
from sklearn.utils.estimator_checks import estimator_checks_generator

LEFT_OUT = {
    "check_fit_score_takes_y": "the arguments are called data and labels, since data may be a folder",
    "check_estimators_nan_inf": "its labels are 0.0 and 1.0, and floats are no labels; NaN in a table is no matter of images",
    "check_do_not_raise_errors_in_init_or_set_params": "settings are checked when they are given, not when fit begins",
    "check_supervised_y_2d": "a column of labels is refused with the sentence for one-hot rows, not flattened",
    "check_array_api_input": "scikit-learn skips it unless SCIPY_ARRAY_API is set; images in tensors have a test of ours",
}


def name(check: Any) -> str:
    return getattr(check, "func", check).__name__


CHECKS = list(enumerate(estimator_checks_generator(Rows("linear-probe", shots=None))))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [pytest.param(n, id=f"{n}-{name(check)}") for n, (_, check) in CHECKS])
def test_check(number: int, backbone_file: Path) -> None:
    check: Callable[[Any], None] = CHECKS[number][1][1]
    if name(check) in LEFT_OUT:
        pytest.skip(LEFT_OUT[name(check)])
    check(Rows("linear-probe", str(backbone_file), shots=None))


def test_what_is_left_out_is_still_a_check() -> None:
    assert {name(check) for _, (_, check) in CHECKS} >= set(LEFT_OUT)
    assert len(CHECKS) > 50
