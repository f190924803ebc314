"""Texts to token ids, by the `tokenizers` library: CLIP's byte-pair encoding, or the one that comes with a checkpoint.

A row is start token, text, end-of-text token, zeros. The towers find the end as the largest id of a row, so the end-of-text
token may occur only once: a text that contains it is refused. So is a text that doesn't fit: cutting it would silently drop
the end of a long class name.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewclip.errors import BackboneError, PromptError
from fewclip.files.read import parse_json, read_bytes, read_text

if TYPE_CHECKING:
    import tokenizers
    from jaxtyping import Int

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_VOCABULARY = 49408
_MERGES = Path(__file__).parent / "bpe_merges.txt.gz"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """Token ids of texts. `start` and `end` are the ids around every text, `size` that of the vocabulary."""

    def __init__(self, encoder: tokenizers.Tokenizer) -> None:
        """Around an encoder whose vocabulary holds `<|startoftext|>` and, with the largest id, `<|endoftext|>`.

        Raises:
            BackboneError: it doesn't.
        """
        encoder.no_padding()
        encoder.no_truncation()
        self._encoder = encoder
        vocabulary = encoder.get_vocab(with_added_tokens=True)
        if START not in vocabulary or vocabulary.get(END) != max(vocabulary.values()):
            raise BackboneError(
                f"The tokenizer is not CLIP's kind: expected {START}, and {END} with the largest id of the vocabulary."
            )
        self.start, self.end, self.size = vocabulary[START], vocabulary[END], vocabulary[END] + 1

    @classmethod
    def clip(cls) -> Tokenizer:
        """CLIP's own, for checkpoints without one (OpenAI's, open_clip's)."""
        return cls(_byte_pairs(*_clip_vocabulary()))

    def words(self) -> list[str]:
        """The words that are one token."""
        return [token.removesuffix("</w>") for token in self._encoder.get_vocab() if token.endswith("</w>")]

    def to_json(self) -> str:
        """The content of a `tokenizer.json`."""
        return self._encoder.to_str()

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """From a `tokenizer.json`.

        Raises:
            BackboneError: it is missing or damaged.
        """
        from tokenizers import Tokenizer as Encoder

        try:
            return cls(Encoder.from_buffer(read_bytes(Path(path))))
        except BackboneError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise BackboneError(f"{path} is not a readable tokenizer ({error}): download or copy it again.") from error

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer | None:
        """From `tokenizer.json`, else `vocab.json` and `merges.txt`; None if the folder has neither.

        Raises:
            BackboneError: a file is damaged.
        """
        if (folder / "tokenizer.json").is_file():
            return cls.from_file(folder / "tokenizer.json")
        if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
            return None
        try:
            vocabulary = parse_json(read_bytes(folder / "vocab.json"))
            lines = read_text(folder / "merges.txt").split("\n")
            return cls(_byte_pairs(vocabulary, _pairs(lines[lines[0].startswith("#version") :])))
        except BackboneError:
            raise
        except Exception as error:
            raise BackboneError(f"{folder} has no readable vocab.json and merges.txt ({error}).") from error

    def __call__(
        self, texts: Sequence[str], context_length: int, *, truncate: bool = False
    ) -> Int[Tensor, "texts context_length"]:
        """Rows of start, text, end, zeros.

        Raises:
            PromptError: a text is too long (unless `truncate`, which keeps its beginning), or contains a special token.
        """
        if isinstance(texts, str):
            raise PromptError(f"The tokenizer was given the single text {_short(texts)}; it takes a list of texts.")
        # Zero, the padding, is never read: nothing after a row's end token is.
        rows = torch.zeros(len(texts), context_length, dtype=torch.long)
        for i, text in enumerate(texts):
            ids = self.encode(text)
            if len(ids) + 2 > context_length:
                if not truncate:
                    raise PromptError(
                        f"Text {i + 1} of {len(texts)}, {_short(text)}, makes {len(ids) + 2} tokens with its start and "
                        f"end, and this backbone reads {context_length}: shorten the class name or the template."
                    )
                ids = ids[: context_length - 2]
            rows[i, : len(ids) + 2] = torch.tensor([self.start, *ids, self.end])
        return rows

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end.

        Raises:
            PromptError: it contains a special token, or is not text. BackboneError: the tokenizer can't be used.
        """
        if not isinstance(text, str):
            raise PromptError(f"The tokenizer was given {text!r}, a {type(text).__name__}; it takes text.")
        try:
            # One by one: the library's batches start threads, which warn when a data loader forks afterwards.
            ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise PromptError(
                f"The text {_short(text)} holds characters that are not valid Unicode: remove them."
            ) from error
        except Exception as error:  # the library raises bare Exception, as when the vocabulary lacks its unknown token
            raise BackboneError(f"The backbone's tokenizer is damaged ({error}): download or copy it again.") from error
        # The end token is also what CLIP's encoder gives for what its vocabulary lacks.
        if self.start in ids or self.end in ids:
            lower = text.lower()
            why = "the special token " + (START if START in lower else END)
            if START not in lower and END not in lower:
                why = "characters that this backbone's vocabulary lacks"
            raise PromptError(f"The text {_short(text)} contains {why}: write the class name without it.")
        return ids


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]}…{text[-15:]}")


def _pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(left, right) for left, right in (line.split(" ") for line in lines if line)]


def _byte_signs() -> list[str]:
    """One printable character for each byte, in the order of CLIP's vocabulary.

    Bytes that Latin-1 prints stand for themselves and come first; the others borrow the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@cache
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary: each byte, each byte at the end of a word, what every merge makes, and the two specials."""
    merges = _pairs(gzip.decompress(_MERGES.read_bytes()).decode("utf-8").split("\n"))
    signs = _byte_signs()
    tokens = [*signs, *(sign + "</w>" for sign in signs), *(left + right for left, right in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def _byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """CLIP's encoder: normalise (composed characters, single blanks, lower case), split into words, spell as bytes, merge."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    encoder = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    encoder.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    encoder.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    return encoder
