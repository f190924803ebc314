"""Fixtures that every test shares: a tiny CLIP on disk and a folder of coloured pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import golden_files
import pytest
import torch
from browser import browser as browser
from pictures import COLOURS, WORDS, picture
from PIL import Image
from safetensors.torch import save_file
from small import small_clip

from fewclip.clip.model import CLIP

if TYPE_CHECKING:
    from hub_standin import Hub

torch.set_num_threads(1)  # the models are tiny, and the machine may be shared


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with CLIP's own vocabulary, in OpenAI's names."""
    clip = small_clip(**WORDS)
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    save_file(clip.state_dict(), path, {"quick_gelu": "true"})
    return path


@pytest.fixture(scope="session")
def other_backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = small_clip(seed=1, **WORDS)
    path = tmp_path_factory.mktemp("backbone") / "other.safetensors"
    save_file(clip.state_dict(), path, {"quick_gelu": "true"})
    return path


@pytest.fixture
def backbone(backbone_file: Path) -> CLIP:
    return CLIP.from_pretrained(str(backbone_file))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder per colour, eight pictures each."""
    root = tmp_path / "photos"
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for i in range(8):
            picture(colour, 100 * number + i).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def pairs() -> list[tuple[Image.Image, str]]:
    return [(picture(colour, 10 * n + i), name) for n, (name, colour) in enumerate(COLOURS.items()) for i in range(4)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in golden_files.summary(terminalreporter.stats):
        terminalreporter.write_line(line)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for the Hugging Face hub, and an empty cache."""
    from hub_standin import Hub, point

    with Hub() as hub:
        point(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the browser needs one."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
