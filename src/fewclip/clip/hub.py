"""A checkpoint's files from the Hugging Face hub: only those that are read, and from the cache when offline."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from fewclip.errors import BackboneError

# A config and the weights that it describes, in order of preference. Each pair is one layout.
PAIRS = (
    ("open_clip_config.json", "open_clip_model.safetensors"),
    ("config.json", "model.safetensors"),
    ("config.json", "model.safetensors.index.json"),
    ("open_clip_config.json", "open_clip_pytorch_model.bin"),
    ("config.json", "pytorch_model.bin"),
    ("config.json", "pytorch_model.bin.index.json"),
)
EXTRAS = ("tokenizer.json", "vocab.json", "merges.txt", "preprocessor_config.json")


def choose(files: Collection[str]) -> tuple[str, str] | None:
    """The config and the weights (or the index of their shards) to read among a folder's files."""
    return next((pair for pair in PAIRS if pair[0] in files and pair[1] in files), None)


def needed(files: Collection[str]) -> list[str]:
    """Of a repository's files those that `checkpoint.load` reads: config, one copy of the weights, tokenizer."""
    pair = choose(files)
    if pair is None:
        return []
    config, weights = pair
    names = [config, weights, *EXTRAS]
    if weights.endswith(".index.json"):
        stem, suffix = weights.removesuffix(".index.json").rsplit(".", 1)
        names += [name for name in files if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name)]
    return [name for name in names if name in files]


def fetch(repo: str, mend: str) -> Path:
    """The local folder of a repository's files, downloaded where the cache lacks them.

    `mend` ends every error message: what else the caller can give.

    Raises:
        BackboneError: no such repository, no access to it, no network and not in the cache, or no weights in it.
    """
    from huggingface_hub import hf_hub_download, model_info
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        # This request first: without a network it fails at once, while downloads are tried again for half a minute.
        names = needed([file.rfilename for file in model_info(repo, timeout=10).siblings or []])
        if not names:
            raise BackboneError(
                f"{repo} on the Hugging Face hub holds none of {', '.join(w for _, w in PAIRS)} "
                f"beside its config. {mend}"
            )
        paths = [hf_hub_download(repo, name) for name in names]
        return Path(paths[0]).parent
    except BackboneError:
        raise
    except GatedRepoError as error:
        raise BackboneError(
            f"{repo} is gated: ask for access on https://huggingface.co/{repo}, then run `hf auth login`. {mend}"
        ) from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"There is no repository {repo} on the Hugging Face hub, or it is private. {mend}"
        ) from error
    except Exception as error:  # offline, or any failure of the network: each HTTP library has its own types
        cached = _cached(repo)
        if cached is None:
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise BackboneError(
                f"{repo} is not in the local cache and can't be downloaded from the Hugging Face hub ({reason}). {mend}"
            ) from error
        return cached


def _cached(repo: str) -> Path | None:
    """The cached snapshot of a repository, if it holds a config and weights."""
    from huggingface_hub import try_to_load_from_cache

    for config, weights in PAIRS:
        found = [try_to_load_from_cache(repo, name) for name in (config, weights)]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None
