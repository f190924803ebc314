"""Files from the Hugging Face hub, for backbones and adapters alike: only those that are read, and from the cache when offline.

Tokens, cache, mirror and offline mode follow huggingface_hub's own rules (HF_TOKEN, `hf auth login`, HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fewclip.errors import BackboneError, FewclipError, visible
from fewclip.version import __version__

TIMEOUT = 10
"""Seconds to wait for the hub's first answer; after that the cache is searched."""

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
    """Of a repository's files those that `fewclip.clip.load.load` reads: config, one copy of the weights, tokenizer."""
    pair = choose(files)
    if pair is None:
        return []
    config, weights = pair
    names = [config, weights, *EXTRAS]
    if weights.endswith(".index.json"):
        stem, suffix = weights.removesuffix(".index.json").rsplit(".", 1)
        names += [name for name in files if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name)]
    return [name for name in names if name in files]


def fetch_backbone(repo: str, otherwise: str) -> Path:
    """The local folder of a backbone's files, downloaded where the cache lacks them.

    `otherwise` ends every error message: what else the caller can give.

    Raises:
        BackboneError: as `fetch`, or there are no weights in the repository.
    """

    def wanted(sizes: Mapping[str, int | None]) -> list[str]:
        names = needed(sizes)
        if not names:
            raise BackboneError(
                f"{repo} on the Hugging Face hub has none of {', '.join(weights for _, weights in PAIRS)} "
                f"next to its config. {otherwise}"
            )
        return names

    return fetch(repo, wanted, BackboneError, cached=PAIRS, otherwise=otherwise)


def fetch(
    repo: str,
    wanted: Callable[[Mapping[str, int | None]], Sequence[str]],
    kind: type[FewclipError],
    *,
    revision: str | None = None,
    token: str | None = None,
    cached: Sequence[Sequence[str]],
    check: Callable[[Path], object] | None = None,
    otherwise: str = "",
) -> Path:
    """The local folder of some files of a repository, all of one commit, downloaded where the cache lacks them.

    Args:
        wanted: given the repository's files and their sizes in bytes (None where the hub hides them), the names to download,
            at least one; it raises if they are not there or too large.
        kind: what is raised where the hub refuses or can't be reached.
        revision: a branch, a tag or a commit; by default the main branch.
        cached: sets of file names. Without a network, the cached folder that holds all of one set is returned.
        check: called with the path of each file once it is there, before the next one is downloaded.
        otherwise: ends every message of this function: what else the caller can give.

    Raises:
        FewclipError: of the given kind: no such repository or revision, no access to it, it changed meanwhile, or there is
            no network and the cache lacks the files; or what `wanted` and `check` raise.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="fewclip", library_version=__version__)
    try:
        # This request first: without a network it fails at once, while downloads are retried for half a minute.
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        at = revision
        for name in wanted({file.rfilename: file.size for file in info.siblings or []}):
            path = Path(api.hf_hub_download(repo, name, revision=at))
            # The first file is asked for by branch, so that the cache knows the branch when offline; the rest by commit.
            at = path.parent.name
            if at != info.sha:
                raise kind(f"{repo} was changed while it was being read: try again.")
            if check is not None:
                check(path)
        return path.parent
    except FewclipError:
        raise
    except Exception as error:  # each HTTP library has its own types
        refused = refusal(error, repo, revision)
        if refused is not None:
            hint = f" There is no local folder {repo} either." if _is_missing(error) else ""
            raise kind(f"{refused}{hint} {otherwise}".strip()) from error
        folder = _cached(repo, revision, cached)
        if folder is None:
            raise kind(
                f"{repo} is neither a local folder nor in the local cache, and can't be downloaded from the Hugging Face hub "
                f"({reason(error)}): connect to the network once, or copy the files here. {otherwise}".strip()
            ) from error
        return folder


def _cached(repo: str, revision: str | None, sets: Sequence[Sequence[str]]) -> Path | None:
    """The cached folder of a repository that holds all files of one of the sets."""
    from huggingface_hub import try_to_load_from_cache

    for names in sets:
        paths = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
        if all(isinstance(path, str) for path in paths):
            return Path(str(paths[0])).parent
    return None


def refusal(error: Exception, repo: str, revision: str | None, *, writing: bool = False) -> str | None:
    """The sentence for what the hub refuses; None for what may be the network's fault."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    login = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"{repo!r} is not the name of a repository on the Hugging Face hub: {reason(error)}."
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: ask for access on https://huggingface.co/{repo}, then {login}."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: give one of its branches, tags or commits."
    if writing and (_is_missing(error) or _status(error) == 403):
        return f"You do not have permission to write to {repo}: {login}, with a token that does."
    if _is_missing(error):
        return f"There is no repository {repo} on the Hugging Face hub that you can access: check its name; if it is private, {login}."
    if _status(error) == 403:
        return f"You do not have permission to read {repo}: {login}, with a token that does."
    return None


def reason(error: Exception) -> str:
    """The first two lines of an error's text, as one line without its full stop."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return visible(" ".join(lines[:2])).rstrip(".") or type(error).__name__


def _is_missing(error: Exception) -> bool:
    """Whether the repository does not exist, or is hidden from this token (the hub answers 401 then)."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    unknown = isinstance(error, RepositoryNotFoundError) or _status(error) == 401
    return unknown and not isinstance(error, GatedRepoError)


def _status(error: Exception) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status
