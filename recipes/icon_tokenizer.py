"""A small tokenizer of CLIP's kind, trained on the captions: byte-level BPE, lower case, ``</w>`` ends a word."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(WORD_END, " "), decoders.Strip(" ", 0, 1)]
    )
    return tokenizer


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """At most ``size`` tokens: every byte, inside and at the end of a word, then merges, then start and end."""
    rough = _pipeline(models.BPE(end_of_word_suffix=WORD_END))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2 - len(alphabet), end_of_word_suffix=WORD_END, initial_alphabet=alphabet, show_progress=False
    )
    rough.train_from_iterator(texts, trainer)
    merges = [tuple(m) if isinstance(m, list) else m for m in _merges(rough)]
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet)]
    tokens += [t for t in dict.fromkeys(a + b for a, b in merges) if t not in set(tokens)]
    tokens += [START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = _pipeline(models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=WORD_END))
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in found]
