"""ONNX graphs: their probabilities are those of the classifier, by onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
import onnxruntime
from pictures import COLOURS, picture

from fewclip import FewShotClassifier
from fewclip.adapters.adapter import Candidates
from fewclip.adapters.onnx import ExportError, export, token_ids
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.errors import FewclipError
from fewclip.methods import METHODS

ROOT = Path(__file__).parents[2]
REFUSED = {"plot": "steps it takes depend on the values of its input"}
"""Methods that can't be exported, and a part of what is said then."""


def fitted(backbone: CLIP, method: str) -> FewShotClassifier:
    """A classifier of three colours, and of one class by its name where the method knows such."""
    pairs = [(picture(c, 10 * n + i), name) for n, (name, c) in enumerate(COLOURS.items()) for i in range(4)]
    classifier = FewShotClassifier(method, backbone, shots=None)
    if classifier.method in ("mmrl", "mmrlpp"):
        classifier.set_params(epochs=2, rep_dim=8)
    elif method != "zero-shot":
        classifier.set_params(epochs=1)
    classifier.fit(pairs)
    return classifier.add_classes(["dark tram"]) if METHODS[method].new_classes else classifier


def images(classifier: FewShotClassifier) -> tuple[list[Any], np.ndarray]:
    pictures = [picture(colour, 50 + n, (30, 20 + n)) for n, colour in enumerate(COLOURS.values())]
    assert classifier.adapter_.clip.preprocess is not None
    return pictures, classifier.adapter_.clip.preprocess.batch(pictures).numpy()


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_the_classifiers(backbone: CLIP, tmp_path: Path, method: str) -> None:
    classifier = fitted(backbone, method)
    out = tmp_path / "model.onnx"
    if method in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[method]):
            export(classifier.adapter_, out, dynamic_batch=True, pixels="normalised")
        assert not out.exists()
        return
    done = export(classifier.adapter_, out, dynamic_batch=True, pixels="normalised")
    assert done.error < 1e-4
    pictures, pixels = images(classifier)
    expected = classifier.predict_proba(pictures)
    for count in (1, 2, 3):
        assert np.abs(run(out, pixels=pixels[:count]) - expected[:count]).max() < 1e-4
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"] == classifier.adapter_.classes
    assert about["trained"] == [name != "dark tram" for name in classifier.adapter_.classes]


@pytest.mark.parametrize("method", ["mmrl", "zero-shot"])
def test_towers_take_classes_at_run_time(backbone: CLIP, tmp_path: Path, method: str) -> None:
    classifier = fitted(backbone, method)
    export(classifier.adapter_, tmp_path / "m.onnx", dynamic_batch=True, pixels="normalised", parts=True)
    about = json.loads((tmp_path / "m.json").read_text())
    names = ["a tram", "red", "green", "a zebra with a very long name", "blue"]
    features = run(tmp_path / "m-text.onnx", tokens=token_ids(classifier.adapter_, about["template"], names).numpy())
    pictures, pixels = images(classifier)
    seen = np.array([name in COLOURS for name in names])
    found = run(tmp_path / "m-image.onnx", pixels=pixels, classes=features, seen=seen)
    assert np.abs(found - classifier.predict_proba(pictures, names)).max() < 1e-4
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(tmp_path / "m-tokenizer.json")).encode("a photo of a tram.").ids
    ours = token_ids(classifier.adapter_, "a photo of a {}.", ["tram"])[0].tolist()
    assert [i for i in ours if i][1:-1] == [i for i in ids if i < 49406]


def test_a_text_tower_that_cannot_be_traced_is_refused(backbone: CLIP, tmp_path: Path) -> None:
    """CoOp's slots are placed by the tokens and their number: torch refuses to trace that, or its graph takes only as many
    classes as it was traced with. Nothing is written, not even the whole graph."""
    with pytest.raises(ExportError, match="The towers of coop can't be exported separately, leave --parts out: "):
        export(fitted(backbone, "coop").adapter_, tmp_path / "m.onnx", parts=True)
    assert list(tmp_path.iterdir()) == []


def test_half_precision(backbone: CLIP, tmp_path: Path) -> None:
    classifier = fitted(backbone, "mmrl")
    full, half = tmp_path / "full.onnx", tmp_path / "half.onnx"
    export(classifier.adapter_, full)
    done = export(classifier.adapter_, half, dtype="fp16")
    assert done.error < 2e-2
    assert half.stat().st_size < 0.65 * full.stat().st_size


def test_the_example(backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """onnxruntime, numpy and Pillow alone name what the classifier names."""
    classifier = fitted(CLIP.from_pretrained(str(backbone_file)), "mmrl")
    classifier.save(tmp_path / "a")
    assert main(["export", str(tmp_path / "a"), "-o", str(tmp_path / "m.onnx"), "--classes", "zebra"]) == 0
    assert "5 classes; probabilities within" in capsys.readouterr().out
    picture(COLOURS["red"], 77, (61, 40)).save(tmp_path / "r.png")
    example = ROOT / "examples" / "onnx_predict.py"
    code = example.read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    assert "torch" not in code
    arguments = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; sys.modules['torch'] = None; "]
    arguments[-1] += f"sys.argv = {[str(example), str(tmp_path / 'm.onnx'), str(tmp_path / 'r.png')]!r}; exec({code!r})"
    said = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    classifier.add_classes(["zebra"])
    shares = classifier.predict_proba(tmp_path / "r.png")[0]
    best = [f"{classifier.adapter_.classes[i]} {shares[i]:.1%}" for i in np.argsort(-shares)[:3]]
    assert said.stdout.strip().endswith("  ".join(best))


def test_mistakes(backbone: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = fitted(backbone, "zero-shot")
    with pytest.raises(FewclipError, match=r"is not an \.onnx file"):
        export(classifier.adapter_, tmp_path / "model.pb")
    with monkeypatch.context() as patch:
        patch.setattr("fewclip.adapters.onnx.find_spec", lambda name: None)
        with pytest.raises(FewclipError, match=r"Exporting needs onnx: pip install 'fewclip\[export\]'\."):
            export(classifier.adapter_, tmp_path / "m.onnx")
    with monkeypatch.context() as patch:
        rows = Candidates([torch.zeros(4, 16)], torch.ones(4, dtype=torch.bool))
        patch.setattr(classifier.adapter_, "candidates", lambda: rows)
        with pytest.raises(ExportError, match="can't be exported as parts"):
            export(classifier.adapter_, tmp_path / "m.onnx", parts=True)

    def by_value(images: torch.Tensor, classes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return images.mean() * classes.sum(1)[None] if float(images.mean()) > 0 else classes.sum(1)[None]

    attention = torch.nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patch:
        patch.setattr(classifier.adapter_.method, "scores", by_value)
        with pytest.raises(
            ExportError, match="zero-shot can't be exported: what it computes can't be traced to an ONNX graph"
        ):
            export(classifier.adapter_, tmp_path / "m.onnx")
    assert torch.nn.functional.scaled_dot_product_attention is attention
    assert list(tmp_path.iterdir()) == []
