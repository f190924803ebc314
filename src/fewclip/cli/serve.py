"""`fewclip serve`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewclip.cli.options import Adapter, parse
from fewclip.errors import SettingsError

if TYPE_CHECKING:
    from fewclip.serve.limits import Limits
    from fewclip.serve.server import Batching

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True, kw_only=True)
class Serve:
    adapter: Adapter
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with a bearer token that clients must send; by default $FEWCLIP_TOKEN; if that is not set, none is needed."""
    allow_host: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME…")] = ()
    """Further names that a server without a token answers to, if it listens only on this machine."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not where it was when the adapter was trained."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if available."""


def serve(arguments: list[str]) -> int:
    """Serve an adapter over HTTP, with a page to try images on."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        if {"-h", "--help"} & set(arguments):
            parse(serve, arguments, Serve)
        raise SettingsError(f"Serving needs {missing[0].replace('_', '-')}: pip install 'fewclip[serve]'.")
    from fewclip.serve.limits import Limits
    from fewclip.serve.server import Batching

    return start(*parse(serve, arguments, Serve, Limits(), Batching()))


def start(options: Serve, limits: Limits, batching: Batching) -> int:
    """Load the adapter, then answer requests until SIGINT or SIGTERM."""
    from fewclip.adapters.adapter import Adapter as Loaded
    from fewclip.serve.app import create_app
    from fewclip.serve.guard import VARIABLE, find_token
    from fewclip.serve.run import is_local, listen, local_names, run, url

    token = find_token(options.token_file)
    adapter = Loaded.load(options.adapter, backbone=options.backbone, device=options.device)
    bound = listen(options.host, options.port)
    hosts = {*local_names(options.host, bound), *options.allow_host} if token is None and is_local(bound) else None
    if token is None and not is_local(bound):
        print(
            f"Note: {options.host} can be reached from other machines, and no token is needed: set ${VARIABLE}, or give "
            "--token-file.",
            file=sys.stderr,
        )

    def ready() -> None:
        print(
            f"{adapter.method.name} on {adapter.clip.name}, {len(adapter.classes)} classes: {url(bound)} "
            f"({'with' if token else 'no'} token). Ctrl+C stops.",
            flush=True,
        )

    run(
        create_app(adapter, limits=limits, batching=batching, token=token, hosts=hosts),
        bound,
        seconds=limits.read_seconds,
        ready=ready,
    )
    print("Stopped.")
    return 0
