"""Adapters from the Hugging Face hub, and what can go wrong between it and us.

Of a repository two files are read, adapter_config.json and adapter_model.safetensors, by their exact names and below a
size; nothing else is downloaded. Tokens, cache, mirror and offline mode follow huggingface_hub's own rules (HF_TOKEN,
`hf auth login`, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewclip.adapters.card import plain
from fewclip.adapters.config import AdapterConfig
from fewclip.adapters.disk import CONFIG, WEIGHTS, load_adapter, read_config
from fewclip.clip.load import EMBEDDED, hub_id
from fewclip.errors import AdapterError, FewclipError
from fewclip.version import __version__

MOST_BYTES = {CONFIG: 64 << 20, WEIGHTS: 1 << 30}
"""Sizes that are refused, far above what adapters have: 50 MB for Tip-Adapter with ImageNet's 1000 classes, 16 shots, L/14."""
TIMEOUT = 10
"""Seconds to wait for the hub's first answer; after it the cache is looked into."""
NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
"""What may be user/name rather than a path; the hub is stricter."""


def find_adapter(name: str | Path, revision: str | None = None, token: str | None = None) -> tuple[Path, bool]:
    """The folder of an adapter, and whether it came from the hub. A local folder goes before a repository of its name.

    `name` is a folder, or `user/name` or `user/name@revision` on the hub. What the cache has is not downloaded again;
    without a network the cache is used.

    Raises:
        AdapterError: nothing there, no access, no network and not in the cache, or no adapter in it.
    """
    text = str(name)
    repo, _, asked = text.partition("@")
    if not NAME.fullmatch(repo) or os.path.exists(text):
        if revision is not None:
            raise AdapterError(
                f"revision is {revision!r}, but {text!r} is a local folder or no name on the Hugging Face hub: leave it out, "
                "or give user/name."
            )
        return Path(text).expanduser(), False
    if revision is not None and asked and asked != revision:
        raise AdapterError(
            f"{text!r} asks for the revision {asked!r}, and revision for {revision!r}: give one of them."
        )
    return fetch(repo, revision or asked or None, token), True


def open_adapter(
    name: str | Path, revision: str | None = None, token: str | None = None, *, own_backbone: bool = True
) -> tuple[Path, AdapterConfig, dict[str, Tensor]]:
    """The folder of an adapter, its configuration and tensors. `own_backbone`: it is for the backbone that it names.

    Raises:
        AdapterError: see `find_adapter`, `load_adapter` and `check_backbone`.
    """
    folder, fetched = find_adapter(name, revision, token)
    config, tensors = load_adapter(folder)
    if fetched and own_backbone:
        check_backbone(str(name), config)
    return folder, config, tensors


def fetch(repo: str, revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of an adapter's files, downloaded where the cache lacks them.

    Raises:
        AdapterError: see `find_adapter`.
    """
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi(token=token, library_name="fewclip", library_version=__version__)
    try:
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        _check_files(repo, {file.rfilename: file.size for file in info.siblings or []})
        config = Path(hf_hub_download(repo, CONFIG, revision=revision, token=token, library_name="fewclip"))
        commit = config.parent.name
        if commit != info.sha:
            raise AdapterError(f"{repo} was changed while it was looked at: try again.")
        check_size(repo, CONFIG, config.stat().st_size)
        read_config(config.parent)  # so that nothing large is fetched that is no adapter of ours
        weights = Path(hf_hub_download(repo, WEIGHTS, revision=commit, token=token, library_name="fewclip"))
        check_size(repo, WEIGHTS, weights.stat().st_size)
        return config.parent
    except FewclipError:
        raise
    except Exception as error:  # each HTTP library has its own types
        said = refusal(error, repo, revision)
        if said is not None:
            hint = f" There is no local folder {repo} either." if _is_missing(error) else ""
            raise AdapterError(said + hint) from error
        cached = _cached(repo, revision)
        if cached is None:
            raise AdapterError(
                f"{repo} is neither a local folder nor in the local cache, and can't be downloaded from the Hugging Face hub "
                f"({reason(error)}): connect to the network once, or copy the adapter here."
            ) from error
        return cached


def _check_files(repo: str, sizes: Mapping[str, int | None]) -> None:
    for name in (CONFIG, WEIGHTS):
        if name not in sizes:
            there = plain(", ".join(sorted(sizes)[:4])) or "nothing"
            raise AdapterError(
                f"{repo} on the Hugging Face hub holds no fewclip adapter: it lacks {name} (found: {there}). Give a repository "
                "that `fewclip push` wrote."
            )
        check_size(repo, name, sizes[name] or 0)


def check_size(repo: str, name: str, size: int) -> None:
    """Refuse a file of more bytes than `MOST_BYTES` allows.

    Raises:
        AdapterError
    """
    if size > MOST_BYTES[name]:
        raise AdapterError(
            f"{name} of {repo} has {size / 1e6:,.0f} MB, far more than an adapter has; {MOST_BYTES[name] / 1e6:,.0f} MB is the "
            "most that fewclip downloads or pushes. If you trust it, download it yourself and give the folder."
        )


def _cached(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, name, revision=revision) for name in (CONFIG, WEIGHTS)]
    return Path(str(found[0])).parent if all(isinstance(path, str) for path in found) else None


def check_backbone(name: str, config: AdapterConfig) -> None:
    """Refuse to look for the backbone of a fetched adapter at a path that its maker chose.

    Raises:
        AdapterError
    """
    if config.backbone not in EMBEDDED and hub_id(config.backbone) is None:
        raise AdapterError(
            f"{name} was made on the backbone {config.backbone!r}, which is neither embedded nor on the Hugging Face hub: ask "
            "its maker for it and give backbone=… (--backbone)."
        )


def _is_missing(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return False
    return isinstance(error, RepositoryNotFoundError) or _status(error) == 401


def _status(error: Exception) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def refusal(error: Exception, repo: str, revision: str | None, writing: bool = False) -> str | None:
    """The sentence for what the hub refuses; None for what may be the network's fault."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    login = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"{repo!r} is no name of a repository on the Hugging Face hub: {reason(error)}"
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: ask for access on its page on the Hugging Face hub, then {login}."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: give a branch, a tag or a commit of it."
    if writing and (_is_missing(error) or _status(error) == 403):
        return f"You may not write to {repo}: {login}, with a token that may write there."
    if _is_missing(error):
        return f"There is no repository {repo} on the Hugging Face hub that you may see: check its name; if it is private, {login}."
    if _status(error) == 403:
        return f"You may not read {repo}: {login}, with a token that may read it."
    return None


def reason(error: Exception) -> str:
    """The first lines of what an error says."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return plain(" ".join(lines[:2])) or type(error).__name__
