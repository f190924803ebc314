"""The command line. Each command is a module, imported only when it is asked for."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fewclip.errors import FewclipError
from fewclip.version import __version__

COMMANDS = {
    "fit": ("fewclip.cli.fit", "train on a few images of each class"),
    "predict": ("fewclip.cli.predict", "predict the classes of images"),
    "serve": ("fewclip.cli.serve", "answer requests over HTTP, with a page to try images on"),
    "export": ("fewclip.cli.export", "write an ONNX graph from pixels to probabilities"),
    "push": ("fewclip.cli.push", "put an adapter with a model card on the Hugging Face hub"),
    "eval": ("fewclip.cli.evaluate", "accuracy of an adapter on labelled images"),
    "bench": ("fewclip.cli.bench", "compare methods on data sets by a protocol of the papers"),
    "report": ("fewclip.cli.report", "tables and plots of results, as a page, Markdown, LaTeX or CSV"),
    "methods": ("fewclip.cli.listing", "the methods that can be trained"),
    "backbones": ("fewclip.cli.listing", "the CLIP models that can be adapted"),
    "data": ("fewclip.cli.data", "list, check and show data sets"),
    "demo": ("fewclip.cli.demo", "train on the embedded drawings and compare, in minutes"),
}
MISTAKE = 2
"""Exit status after a mistake in the input."""


def overview() -> str:
    commands = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return f"""fewclip {__version__}: adapt a frozen CLIP model to your images from a few labelled examples per class.

usage: fewclip COMMAND [OPTIONS]

{commands}

A first try:
  fewclip demo
  fewclip fit icons -o icons-mmrl          the embedded drawings
  fewclip fit PHOTOS -o my-adapter         a folder with one folder of images per class
  fewclip predict my-adapter new.jpg --classes cat,dog,zebra

`fewclip COMMAND --help` explains a command. Exit status: 0 done, 1 something failed or is missing, 2 a mistake in the input."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"fewclip {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"fewclip: there is no command {name!r}: choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return MISTAKE
    module = import_module(COMMANDS[name][0])
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be text, nor the terminal know all of Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = getattr(module, name)(arguments[1:])
        sys.stdout.flush()
        return status
    except FewclipError as error:
        print(f"fewclip {name}: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(f"fewclip {name}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
