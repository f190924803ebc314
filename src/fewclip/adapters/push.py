"""Pushing adapters to the Hugging Face hub: what is sent, and sending it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewclip.adapters.card import model_card
from fewclip.adapters.disk import CARD, CONFIG, WEIGHTS, read_adapter, tensors_of
from fewclip.adapters.hub import MOST_BYTES, NAME, check_size
from fewclip.clip.hub import TIMEOUT, reason, refusal
from fewclip.clip.load import EMBEDDED, hub_id
from fewclip.errors import DataError, FewclipError, OutputError
from fewclip.files.write import as_json
from fewclip.version import __version__

if TYPE_CHECKING:
    from fewclip.adapters.adapter import Adapter
    from fewclip.adapters.card import Stated


@dataclass(frozen=True)
class Package:
    """What is sent: the bytes of files by their names in the repository."""

    repo: str
    files: dict[str, bytes]
    train_names: int
    """Names of training images that adapter_config.json holds."""


def pack(
    folder: str | Path,
    repo: str,
    *,
    licence: str | None = None,
    results: Sequence[Stated] = (),
    card: str | Path | None = None,
    train_names: bool = True,
) -> Package:
    """What `push` would send of an adapter; needs no network.

    Args:
        folder: an adapter's folder.
        repo: user/name on the hub.
        licence: an identifier of the hub, such as mit.
        results: accuracies that the card states.
        card: a Markdown file to send in place of the generated card.
        train_names: whether to include the file names of the training images.

    Of a backbone that is a local file only the last part of the path is sent, so that no path of this machine is published.

    Raises:
        AdapterError: no adapter there, or a damaged one.
        DataError: an unusable card.
        OutputError: not the name of a repository, or not the identifier of a licence.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
        if not NAME.fullmatch(repo):
            raise HFValidationError("expected user/name")
    except HFValidationError as error:
        raise OutputError(
            f"{repo!r} is not the name of a repository on the Hugging Face hub: {reason(error)}."
        ) from error
    if licence is not None and re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence) is None:
        raise OutputError(
            f"The licence {licence!r} is not an identifier of the Hugging Face hub: expected one such as mit, apache-2.0, "
            "cc-by-4.0 or other."
        )
    folder = Path(folder).expanduser()
    config, weights = read_adapter(folder)
    tensors = tensors_of(weights, folder / WEIGHTS)
    if config.backbone not in EMBEDDED and (hub_id(config.backbone) is None or os.path.exists(config.backbone)):
        config = replace(config, backbone=re.split(r"[/\\]", config.backbone.rstrip("/\\"))[-1] or "unnamed")
    if not train_names:
        config = replace(config, train_keys=[])
    count = sum(t.numel() for t in tensors.values())
    generated = model_card(config, count, repo=repo, licence=licence, results=results)
    text = generated if card is None else _own_card(Path(card))
    files = {CARD: text.encode(), CONFIG: as_json(asdict(config)), WEIGHTS: weights}
    for name in MOST_BYTES:
        check_size(repo, name, len(files[name]))
    return Package(repo, files, len(config.train_keys))


def _own_card(path: Path) -> str:
    from huggingface_hub import ModelCard

    try:
        text = path.read_text(encoding="utf-8")
        ModelCard(text)
    except Exception as error:  # of the YAML library too
        raise DataError(
            f"The card {path} can't be used ({reason(error)}): expected Markdown that starts with YAML metadata."
        ) from error
    return text


def upload(
    package: Package,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Send a package in one commit, to a new repository or an existing one; returns the commit's address.

    Args:
        package: what `pack` returned.
        private: whether a new repository is private; True refuses an existing public one.
        token: an access token; by default what huggingface_hub finds (HF_TOKEN, `hf auth login`).
        revision: a branch, created if it doesn't exist; by default main.
        message: of the commit.
        create_pr: open a pull request instead of changing the branch.

    Raises:
        OutputError: no access, no network, or the hub refuses the card or the name.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo = package.repo
    api = HfApi(token=token, library_name="fewclip", library_version=__version__)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo, timeout=TIMEOUT).private:
            raise OutputError(
                f"{repo} already exists and is public, but private=True was given: make it private in its settings, or choose "
                "another name. Nothing was pushed."
            )
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, data) for name, data in package.files.items()]
        done = api.create_commit(
            repo,
            operations,
            commit_message=message or f"Adapter of fewclip {__version__}",
            revision=revision,
            create_pr=create_pr,
        )
        return str(done.pr_url or done.commit_url)
    except FewclipError:
        raise
    except Exception as error:  # each HTTP library has its own types
        refused = refusal(error, repo, revision, writing=True)
        raise OutputError(
            refused
            or f"{repo} could not be pushed to the Hugging Face hub ({reason(error)}): run the same command again."
        ) from error


def push(
    adapter: Adapter,
    repo: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    results: Sequence[Stated] = (),
    train_names: bool = True,
) -> str:
    """Save an adapter in a repository of the Hugging Face hub, in one commit; returns the commit's address.

    `repo` is user/name, created if it doesn't exist; `license`, `results` (`fewclip.bench.stated.read_results` reads them from
    a file of `fewclip bench` or `fewclip eval --json`) and `train_names` as `pack`, the others as `upload`.

    Raises:
        OutputError: no access, no network, or a name or a licence that the hub doesn't take.
    """
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        package = pack(folder, repo, licence=license, results=results, train_names=train_names)
    return upload(package, private=private, token=token, revision=revision, message=commit_message, create_pr=create_pr)
