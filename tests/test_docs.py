"""The Python blocks of README.md and docs/new_method.md run, and docs/methods.md names every method."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from conftest import picture

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.methods import METHODS
from fewclip.training import TrainSettings

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_a_new_method_in_one_file(backbone: CLIP, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("text_shift")
    monkeypatch.setitem(sys.modules, "text_shift", module)
    for block in blocks("docs/new_method.md"):
        exec(block, module.__dict__)
    monkeypatch.setitem(METHODS, "text-shift", module.TextShift)
    monkeypatch.setitem(METHODS, "short-text-shift", module.ShortTextShift)
    pairs = [
        (picture(colour, i), name)
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200)))
        for i in range(4)
    ]
    classifier = FewShotClassifier("text-shift", backbone, shots=None, epochs=5, start=0.02).fit(pairs)
    assert TrainSettings(**classifier.training_["settings"]).lr == 0.1
    assert classifier.history_[-1]["loss"] < classifier.history_[0]["loss"]
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    image = pairs[0][0]
    assert (again.predict_proba(image, ["red", "green"]) == classifier.predict_proba(image, ["red", "green"])).all()
    short = FewShotClassifier("short-text-shift", backbone, shots=None, epochs=5, lr=0.1, start=0.02).fit(pairs)
    assert short.history_[0]["loss"] > short.history_[-1]["loss"]


def test_every_method_is_described() -> None:
    page = (ROOT / "docs/methods.md").read_text()
    for name, method in METHODS.items():
        assert f"**{name}**" in page, name
        if method.parameters_b16 not in ("0", "8,192 a class (16 shots)"):
            assert f"**{name}** ({method.parameters_b16})" in page, name


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, colour in (("cat", (200, 120, 40)), ("dog", (60, 60, 90))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(16):
            picture(colour, i).save(tmp_path / "photos" / name / f"{i}.jpg")
    picture((200, 120, 40), 99).save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("README.md")
    exec(block, {})
    assert (tmp_path / "my-adapter" / "adapter_config.json").exists()
