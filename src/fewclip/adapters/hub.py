"""Adapters from the Hugging Face hub.

Of a repository two files are read, adapter_config.json and adapter_model.safetensors, by their exact names and up to a size;
nothing else is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewclip.adapters.config import AdapterConfig
from fewclip.adapters.disk import CONFIG, WEIGHTS, load_adapter, read_config
from fewclip.clip import hub
from fewclip.clip.load import EMBEDDED, hub_id
from fewclip.errors import AdapterError

MOST_BYTES = {CONFIG: 64 << 20, WEIGHTS: 1 << 30}
"""Sizes that are allowed, far above what adapters have: 50 MB for Tip-Adapter with ImageNet's 1000 classes, 16 shots, L/14."""
NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
"""What may be user/name rather than a path; the hub is stricter."""


def open_adapter(
    name: str | Path, revision: str | None = None, token: str | None = None, *, own_backbone: bool = True
) -> tuple[Path, AdapterConfig, dict[str, Tensor]]:
    """The folder of an adapter, its configuration and tensors. A local folder takes precedence over a
    repository of its name.

    `name` is a folder, or `user/name` or `user/name@revision` on the hub. What the cache has is not downloaded again;
    without a network the cache is used. `own_backbone`: it will be loaded on the backbone it names.

    Raises:
        AdapterError: nothing there, no access, no network and not in the cache, or no adapter in it; as `load_adapter`; or
            a fetched one whose backbone is neither embedded nor on the hub.
    """
    text = str(name)
    repo, _, after = text.partition("@")
    fetched = NAME.fullmatch(repo) is not None and not os.path.exists(text)
    if not fetched and revision is not None:
        raise AdapterError(
            f"revision is {revision!r}, but {text!r} is a local folder or not a name on the Hugging Face hub: leave it out, "
            "or give user/name."
        )
    if fetched and revision is not None and after and after != revision:
        raise AdapterError(
            f"{text!r} asks for the revision {after!r}, but revision is {revision!r}: give only one of them."
        )
    folder = fetch(repo, revision or after or None, token) if fetched else Path(text).expanduser()
    config, tensors = load_adapter(folder)
    # The author of a fetched adapter chose its backbone's name: no path of this machine is opened under that name.
    if fetched and own_backbone and config.backbone not in EMBEDDED and hub_id(config.backbone) is None:
        raise AdapterError(
            f"{name} was trained on the backbone {config.backbone!r}, which is neither embedded nor on the Hugging Face hub: "
            "ask the adapter's author for it and give backbone=… (--backbone)."
        )
    return folder, config, tensors


def fetch(repo: str, revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of an adapter's files, both of one commit, downloaded where the cache lacks them.

    Raises:
        AdapterError: see `open_adapter`.
    """

    def wanted(sizes: Mapping[str, int | None]) -> tuple[str, str]:
        for name in (CONFIG, WEIGHTS):
            if name not in sizes:
                files = ", ".join(sorted(sizes)[:4]) or "nothing"
                raise AdapterError(
                    f"{repo} on the Hugging Face hub is not a fewclip adapter: it lacks {name} (it has: {files}). Give a "
                    "repository that `fewclip push` wrote."
                )
            check_size(repo, name, sizes[name] or 0)
        return CONFIG, WEIGHTS

    def check(path: Path) -> None:
        check_size(repo, path.name, path.stat().st_size)  # the hub may have hidden it, or stated another
        if path.name == CONFIG:
            read_config(path.parent)  # before anything large is fetched that may not be an adapter of ours

    return hub.fetch(
        repo, wanted, AdapterError, revision=revision, token=token, cached=[(CONFIG, WEIGHTS)], check=check
    )


def check_size(repo: str, name: str, size: int) -> None:
    """Refuse a file of more bytes than `MOST_BYTES` allows.

    Raises:
        AdapterError
    """
    if size > MOST_BYTES[name]:
        raise AdapterError(
            f"{name} of {repo} has {size / 1e6:,.0f} MB, far more than an adapter needs; fewclip downloads and pushes at most "
            f"{MOST_BYTES[name] / 1e6:,.0f} MB. If you trust it, download it yourself and give the folder."
        )
