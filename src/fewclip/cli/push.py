"""`fewclip push`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Push:
    adapter: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ADAPTER")]
    """Folder that `fewclip fit` wrote."""
    repo: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="USER/NAME")]
    """Repository on the Hugging Face hub; created if it doesn't exist."""
    private: bool = False
    """Make a new repository private; an existing public one is refused."""
    token: Annotated[str | None, tyro.conf.arg(metavar="TOKEN")] = None
    """Access token; by default $HF_TOKEN or that of `hf auth login`, which other users of this machine can't see."""
    revision: Annotated[str | None, tyro.conf.arg(aliases=["--branch"], metavar="BRANCH")] = None
    """Branch to push to, created if it doesn't exist; by default main."""
    message: Annotated[str | None, tyro.conf.arg(aliases=["-m"], metavar="TEXT")] = None
    """Commit message."""
    pull_request: bool = False
    """Open a pull request instead of changing the branch."""
    licence: Annotated[str | None, tyro.conf.arg(aliases=["--license"], metavar="ID")] = None
    """The adapter's licence, as the hub names it: mit, apache-2.0, cc-by-4.0, other, …"""
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Results for the card: rows.jsonl of `fewclip bench`, or the output of `fewclip eval --json`."""
    card: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Your own model card, to send instead of the generated one."""
    train_names: bool = True
    """Send the file names of the training images, which `fewclip eval` needs to leave them out."""
    dry_run: bool = False
    """Send nothing: write the card to README.hub.md in the adapter's folder, and list what would be sent."""


def push(arguments: list[str]) -> int:
    """Put an adapter with a model card on the Hugging Face hub."""
    options = tyro.cli(Push, prog="fewclip push", description=push.__doc__, args=arguments)
    from fewclip.adapters.disk import CARD, CONFIG, DRAFT, read_config
    from fewclip.adapters.push import pack, upload
    from fewclip.bench.stated import read_results
    from fewclip.files.write import write_bytes

    results = (
        () if options.results is None else read_results(options.results, read_config(options.adapter.expanduser()))
    )
    package = pack(
        options.adapter,
        options.repo,
        licence=options.licence,
        results=results,
        card=options.card,
        train_names=options.train_names,
    )
    for name, data in package.files.items():
        names = (
            f"  with the names of {package.train_names} training images"
            if name == CONFIG and package.train_names
            else ""
        )
        print(f"{len(data):>12,} bytes  {name}{names}")
    if options.licence is None and options.card is None:
        print("Note: the card states no licence; add --licence mit, or another.")
    if options.dry_run:
        place = options.card
        if place is None:
            place = options.adapter.expanduser() / DRAFT
            write_bytes(place, package.files[CARD])
        print(f"Nothing was sent to {options.repo}. The card is {place}; to send an edited one, give it with --card.")
        return 0
    address = upload(
        package,
        private=True if options.private else None,
        token=options.token,
        revision=options.revision,
        message=options.message,
        create_pr=options.pull_request,
    )
    source = options.repo if options.revision in (None, "main") else f"{options.repo}@{options.revision}"
    print(f"{address}\nUse it: fewclip predict {source} IMAGE …, or FewShotClassifier.load({source!r})")
    return 0
