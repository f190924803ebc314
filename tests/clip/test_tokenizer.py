"""Token ids agree with transformers' CLIP tokenizer, given the same vocabulary; texts that make no prompt are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewclip.clip.tokenizer import END, START, Tokenizer, _clip_vocabulary
from fewclip.errors import BackboneError, PromptError

AWKWARD = [
    "a photo of a cat",
    "A PHOTO of a Cat",
    "It's a DOG's life; they'll, we've, I'm, you're, he'd, can't",
    "IT'S THEY'LL",
    "naïve café über Ångström straße ẞ",
    "e\u0301 a\u030a n\u0303 \u0301 a\u0300\u0301\u0302",
    "İstanbul ığdır ΣΟΦΟΣ ﬁ Ǆ",
    "👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽 emoji😀inside",
    "漢字 かな カナ 한국어 ไทย العربية עברית हिन्दी",
    "boeing_737-800 __init__ a_b",
    "12.5 2012 ½ ² ١٢٣ Ⅷ",
    "tab\tnew\nline\r\nform\x0cfeed\x0bvt  double   blank",
    "zero\u200bwidth\u200djoiner\u2060\ufeff soft\u00adhyphen",
    "nbsp\u00a0em\u2003ideographic\u3000line\u2028sep\u0085nel",
    "&amp; &lt;b&gt; &#39; &quot;html&quot;",
    "!!! ... ??? '' \"quoted\" `code` ~@#$%^&*()[]{}|\\/<>",
    "''s 's's '''ll",
    "<|ENDOFTEXT|> <| |> <|endoftext <|startoftext",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 5,
    "\x00\x01\x1c\x7f\x9f",
    "",
    " ",
    "\U0001d518 \U0010ffff \ue000",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.clip()


@pytest.fixture(scope="module")
def reference() -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def test_known_ids_of_clips_vocabulary(tokenizer: Tokenizer) -> None:
    assert (tokenizer.start, tokenizer.end, tokenizer.size) == (49406, 49407, 49408)
    rows = tokenizer(["a photo of a cat", "!"], 8)
    assert rows.tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407, 0], [49406, 256, 49407, 0, 0, 0, 0, 0]]
    assert rows.dtype == torch.long


def test_the_vocabulary_is_complete() -> None:
    vocabulary, merges = _clip_vocabulary()
    assert sorted(vocabulary.values()) == list(range(49408))
    assert len(merges) == 48894
    assert vocabulary["!"] == 0
    assert vocabulary["</w>".join(["!", ""])] == 256
    assert vocabulary[START] == 49406


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_agree_with_transformers(text: str, tokenizer: Tokenizer, reference: Any) -> None:
    assert tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40).filter(lambda text: not any(token in text.lower() for token in (START, END))))
@example("ſ K Å")
def test_any_text_agrees_with_transformers(text: str) -> None:
    ours, reference = _pair()
    assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


_PAIR: list[Any] = []


def _pair() -> Any:
    if not _PAIR:
        from transformers import CLIPTokenizer

        vocabulary, merges = _clip_vocabulary()
        _PAIR.extend([Tokenizer.clip(), CLIPTokenizer(vocab=vocabulary, merges=merges)])
    return _PAIR


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=4))
def test_rows_are_start_text_end_zeros(texts: list[str]) -> None:
    tokenizer = _pair()[0]
    rows = tokenizer(texts, 77)
    assert rows.shape == (len(texts), 77)
    for row, text in zip(rows.tolist(), texts, strict=True):
        ids = tokenizer.encode(text)
        assert row == [49406, *ids, 49407] + [0] * (75 - len(ids))
        assert max(range(77), key=row.__getitem__) == len(ids) + 1


def test_a_text_that_does_not_fit(tokenizer: Tokenizer) -> None:
    texts = ["cat", "dog " * 75, "dog " * 76]
    assert tokenizer(texts[:2], 77)[1, -1] == 49407
    with pytest.raises(PromptError, match=r"Text 3 of 3, 'dog .*….*', makes 78 tokens.*reads 77: shorten"):
        tokenizer(texts, 77)
    cut = tokenizer([*texts, "cat " + "dog " * 74 + "bird", "cat " * 10 + "dog " * 90], 77, truncate=True)
    assert torch.equal(cut[1], cut[2])
    cat, dog = (tokenizer.encode(word)[0] for word in ("cat", "dog"))
    assert cut[3].tolist() == [49406, cat, *[dog] * 74, 49407]  # the beginning is kept
    assert cut[4].tolist() == [49406, *[cat] * 10, *[dog] * 65, 49407]
    with pytest.raises(PromptError, match="makes 7 tokens.*reads 6"):
        tokenizer(["a photo of a cat"], 6)


@pytest.mark.parametrize("text", ["a <|endoftext|> cat", "<|startoftext|>", "x<|endoftext|><|endoftext|>y"])
def test_special_tokens_typed_by_a_user(text: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"contains the special token <\|(start|end)oftext\|>: write the class name"):
        tokenizer(["fine", text], 77)


def test_what_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="single text 'a cat'; it takes a list"):
        tokenizer("a cat", 77)
    with pytest.raises(PromptError, match="given 3, a int"):
        tokenizer(["a", 3], 77)  # type: ignore[list-item]
    with pytest.raises(PromptError, match="not valid Unicode"):
        tokenizer(["\ud800"], 77)


def test_folders(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert Tokenizer.from_folder(tmp_path) is None
    vocabulary, merges = _clip_vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert Tokenizer.from_folder(tmp_path) is None
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    from_parts = Tokenizer.from_folder(tmp_path)
    assert from_parts is not None
    tokenizer._encoder.enable_padding(length=99)
    tokenizer._encoder.enable_truncation(3)
    tokenizer._encoder.save(str(tmp_path / "tokenizer.json"))
    from_json = Tokenizer.from_folder(tmp_path)
    Tokenizer(tokenizer._encoder)  # as it was
    assert from_json is not None
    for text in AWKWARD:
        assert from_parts.encode(text) == from_json.encode(text) == tokenizer.encode(text)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(BackboneError, match=r"no readable vocab\.json and merges\.txt"):
        Tokenizer.from_folder(tmp_path)


def test_a_published_tokenizer_file(tmp_path: Path, reference: Any, tokenizer: Tokenizer) -> None:
    reference.save_pretrained(tmp_path)
    loaded = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for text in AWKWARD:
        assert loaded.encode(text) == tokenizer.encode(text)


def test_tokenizers_of_another_kind() -> None:
    from tokenizers import Tokenizer as Encoder
    from tokenizers.models import BPE

    for vocabulary in ({"a": 0}, {START: 0, END: 1, "a": 2}):
        with pytest.raises(BackboneError, match=r"not CLIP's kind: expected <\|startoftext\|>"):
            Tokenizer(Encoder(BPE(vocabulary, [])))


def test_a_vocabulary_that_lacks_a_character() -> None:
    from tokenizers import Tokenizer as Encoder
    from tokenizers.models import BPE

    small = Tokenizer(Encoder(BPE({"a": 0, "b": 1, START: 2, END: 3}, [], unk_token=END)))
    assert small.encode("ab") == [0, 1]
    with pytest.raises(PromptError, match="'abc' contains characters that this backbone's vocabulary lacks"):
        small.encode("abc")


def test_the_library_is_imported_late() -> None:
    code = "import fewclip.clip.tokenizer, sys; assert 'tokenizers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_token_that_is_not_in_the_vocabulary() -> None:
    """Found by fuzzing: such a tokenizer.json can be read, and fails at the first text that needs the token."""
    whole = Tokenizer.clip().to_json()
    damaged = whole.replace('"unk_token":"<|endoftext|>"', '"unk_token":"<|eneoftext|>"').replace(
        '"unk_token": "<|endoftext|>"', '"unk_token": "<|eneoftext|>"'
    )
    assert damaged != whole
    encoder = tokenizers.Tokenizer.from_str(damaged)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()  # no bytes: other letters are unknown
    with pytest.raises(BackboneError, match="tokenizer is damaged"):
        Tokenizer(encoder).encode("д")
