"""The model card: what it states, what it leaves unsaid, and that nothing in an adapter acts in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fewclip.adapters.card import Stated, code, model_card
from fewclip.adapters.config import AdapterConfig, TrainingSummary
from fewclip.bench.stated import read_results
from fewclip.errors import DataError

CONFIG = AdapterConfig(
    method="mmrl",
    settings={"alpha": 0.7, "rep_tokens": 5},
    backbone="ViT-B/16",
    backbone_fingerprint="f" * 64,
    classes=["cat", "dog"],
    added_classes=["zebra"],
    template="a photo of a {}.",
    training=TrainingSummary(
        data="pets", shots=4, images=8, seconds=12.3, settings={"seed": 1, "lr": 0.001, "cache_mb": 2048}
    ),
    weights_sha256="a" * 64,
)
HOSTILE = [
    "<script>alert(1)</script>",
    "`</code><img src=x onerror=alert(1)>",
    "``` a\n\n# heading",
    "[link](https://evil.example) https://evil.example www.evil.example a@evil.example",
    "cat\n---\nlicense: mit\n---\n<b>",
    '"\n- x: {y: [',
    "a | b \\| c",
    "\u202egnp.exe\u0000\u2028",
    "![](https://evil.example/x.png)",
    "</details><h1>",
    "!!python/object/apply:os.system ['true']",
    "*&anchor",
]


def html(card: str) -> str:
    """What the card's text looks like on a page that shows GitHub's Markdown, raw HTML included."""
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(ModelCard(card).text)


def metadata(card: str) -> dict[str, Any]:
    said: dict[str, Any] = ModelCard(card).data.to_dict()
    return said


def test_it_states_what_the_adapter_holds() -> None:
    card = model_card(CONFIG, 1234, repo="me/pets", licence="mit")
    assert metadata(card) == {
        "library_name": "fewclip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["fewclip", "mmrl", "clip", "few-shot"],
        "license": "mit",
        "base_model": "openai/clip-vit-base-patch16",
        "base_model_relation": "adapter",
    }
    for said in (
        "MMRL (Guo and Gu, CVPR 2025)",
        "1,234 numbers",
        "f" * 64,
        "`pets`",
        "| Training images | `8` |",
        "| Images per class | `4` |",
        "| Seed | `1` |",
        "Trained (2): `cat`, `dog`",
        "Added by name (1): `zebra`",
        "`a photo of a {}.`",
        "| `alpha` | `0.7` |",
        "| `lr` | `0.001` |",
        'FewShotClassifier.load("me/pets")',
        "None are stated.",
        "`mit`.",
    ):
        assert said in card, said


def test_what_is_not_known_is_said_to_be_so() -> None:
    card = model_card(replace(CONFIG, training=TrainingSummary(), backbone="my.safetensors"), 1)
    assert card.count("not recorded") >= 5
    assert "Not stated. The backbone" in card
    assert {"license", "base_model", "model-index"} & {*metadata(card)} == set()
    assert 'give its file or folder as `backbone="…"`' in card


def test_a_method_that_knows_no_new_classes_is_no_zero_shot_classifier() -> None:
    card = model_card(replace(CONFIG, method="linear-probe", settings={}), 1)
    assert metadata(card)["pipeline_tag"] == "image-classification"
    assert "It knows only the classes that it was trained on" in card
    assert "a new class" not in card
    by_class = model_card(replace(CONFIG, method="coop", settings={"class_specific": True}), 1)
    assert metadata(by_class)["pipeline_tag"] == "image-classification"


def test_many_classes_are_folded() -> None:
    card = model_card(replace(CONFIG, classes=[f"kind {n}" for n in range(400)]), 1)
    assert "<summary>Trained (400)</summary>" in card
    assert card.count("`kind ") == 400
    assert html(card).count("<details>") == 2 == html(card).count("</details>")


def test_results_are_an_index_and_a_table() -> None:
    results = [
        Stated("base-to-novel", "pets", "test", "novel", 18, 1788, 97.66),
        Stated("base-to-novel", "pets", "test", "base", 19, 1881, 95.5),
        Stated("few-shot", "pets", "test", "all", 37, 3669, 92.0),
        Stated("fewclip eval", "pets", "test", "all", 37, 3669, 91.0),
    ]
    card = model_card(CONFIG, 1, repo="me/pets", results=results)
    parsed: Any = ModelCard(card).data
    assert parsed.model_name == "pets"
    stated = [(r.task_name, r.dataset_name, r.dataset_split, r.metric_value) for r in parsed.eval_results]
    assert stated == [(r.protocol, f"pets, {r.split} classes", "test", r.accuracy) for r in results]
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert len(index["results"]) == 4, "none is put under the name of another"
    assert index["results"][0]["metrics"] == [{"type": "accuracy", "value": 97.66, "name": "Accuracy (%)"}]
    assert "| `base-to-novel` | `pets` | `test` | `novel` | 18 | 1788 | 97.66 |" in card


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_an_adapter_acts_in_its_card(text: str) -> None:
    config = replace(
        CONFIG,
        classes=[text, "cat"],
        added_classes=[text],
        backbone=text,
        backbone_fingerprint=text,
        template=text,
        fewclip_version=text,
        settings={text: text},
        training=TrainingSummary(data=text, settings={text: text}),
    )
    results = [Stated(text, text, text, text, 2, 3, 50.0)]
    plainly = model_card(replace(CONFIG, backbone="my.pt"), 1, results=[Stated("p", "d", "t", "s", 2, 3, 50.0)])
    card = model_card(config, 1, results=results)
    assert {*metadata(card)} == {*metadata(plainly)}
    shown, expected = html(card), html(plainly)
    for tag in ("<script", "<img", "<a ", "<b>", "<h1>", "<h2>", "<details>", "</details>", "<table>", "<pre>", "<hr"):
        assert shown.count(tag) == expected.count(tag), tag
    rows = [line for line in card.splitlines() if line.startswith("| ") and "| ---" not in line]
    assert all(line.count("|") in (3, 8) for line in rows)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="`|\\<>*_ab\n\t ", max_size=12))
def test_code_shows_the_text_itself(text: str) -> None:
    tokens = MarkdownIt("commonmark").parseInline(f"x {code(text)} y")[0].children
    assert tokens is not None
    assert [token.type for token in tokens] == ["text", "code_inline", "text"]
    shown = text.replace("\n", "\\n").replace("\t", "\\t").strip()
    assert tokens[1].content.strip() == shown


def test_the_metadata_is_one_block_of_yaml() -> None:
    for text in HOSTILE:
        card = model_card(CONFIG, 1, results=[Stated(text, text, text, text, 1, 1, 1.0)])
        block = card.split("---\n")[1]
        assert yaml.safe_load(block) == metadata(card) | {"model-index": yaml.safe_load(block)["model-index"]}


# Results out of files


def row(**changes: Any) -> dict[str, Any]:
    assert CONFIG.training is not None
    return {
        "run": "r", "row": 1, "rows": 1, "status": "done", "protocol": "few-shot", "method": "mmrl", "variant": None,
        "settings": CONFIG.settings, "training": {"seed": 1, "lr": 0.001}, "backbone_fingerprint": "f" * 64,
        "source": "pets", "dataset": "pets", "split": "all", "seed": 1, "shots": 4, "train_images": 8, "images": 100,
        "classes": 2, "accuracy": 91.5,
    } | changes  # fmt: skip


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_rows_of_this_training_alone_are_stated(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"method": "coop"},
        {"settings": {"alpha": 0.5, "rep_tokens": 5}},
        {"training": {"seed": 2, "lr": 0.001}},
        {"backbone_fingerprint": "0" * 64},
        {"source": "cars"},
        {"shots": 16},
        {"train_images": 9},
        {"variant": "raw"},
        {"status": "failed"},
    ]
    file = write(tmp_path / "rows.jsonl", row(), *(row(run=f"o{n}", **change) for n, change in enumerate(others)))
    assert read_results(file, CONFIG) == [Stated("few-shot", "pets", "test", "all", 2, 100, 91.5)]
    alone = write(tmp_path / "one.jsonl", row())
    assert read_results(alone, CONFIG) == read_results(file, CONFIG)
    none = write(tmp_path / "none.jsonl", *(row(run=f"o{n}", **change) for n, change in enumerate(others)))
    with pytest.raises(DataError, match=r"None of the 8 results in .* belongs to this adapter"):
        read_results(none, CONFIG)


def test_an_evaluation_must_be_of_these_weights(tmp_path: Path) -> None:
    said = {"data": "pets", "part": "test", "split": "base", "classes": 2, "images": 50, "accuracy": 88.0}
    mine = write(tmp_path / "e.json", said | {"weights_sha256": "a" * 64})
    assert read_results(mine, CONFIG) == [Stated("fewclip eval", "pets", "test", "base", 2, 50, 88.0)]
    for change, says in (
        ({"weights_sha256": "b" * 64}, "evaluates a different adapter"),
        ({}, "neither a file of rows nor an evaluation"),
        ({"weights_sha256": "a" * 64, "accuracy": "high"}, "can't be read"),
    ):
        with pytest.raises(DataError, match=says):
            read_results(write(tmp_path / "e.json", said | change), CONFIG)
    with pytest.raises(DataError, match="There are no results"):
        read_results(tmp_path / "none.jsonl", CONFIG)
