"""Runs the shell blocks of the documents: `fewclip` in this process, its server in a thread, the rest as they are or checked.

Each word that may begin a line is a function here; one that is not has to be added, or its block marked as not run.
"""

from __future__ import annotations

import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tyro
from documents import ROOT

from fewclip.cli import COMMANDS, main

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", flags=re.DOTALL)
PLAIN = {"cat", "cp", "head", "ls", "mkdir", "mv", "rm", "tail", "wc"}
ADDRESS = "http://127.0.0.1:8000"


class Parsed(BaseException):
    """The options of a command were understood; nothing of it was run."""


def lines(text: str) -> list[str]:
    """The commands of a block: of a console block what stands behind `$`, else every line; continued ones in one."""
    joined = re.sub(r"\\\n\s*", " ", text)
    every = joined.splitlines()
    if any(line.startswith("$ ") for line in every):
        every = [line[2:] for line in every if line.startswith("$ ")]
    return [line for line in every if line.strip() and not line.lstrip().startswith("#")]


class Shell:
    """A folder and an environment in which the commands of a page run, one behind the other.

    `extra`: command of fewclip -> arguments that are added to it. `statuses`: command -> exit statuses besides 0 that are right.
    `parsed`: commands whose options are read and no more.
    """

    def __init__(
        self,
        folder: Path,
        extra: dict[str, str],
        statuses: dict[str, tuple[int, ...]],
        parsed: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.extra, self.statuses, self.parsed = folder, extra, statuses, parsed
        self.environment: dict[str, str] = {}
        self.until_the_end = ExitStack()
        self.address = ADDRESS

    def run(self, line: str) -> None:
        """Run a command; several with `&&` one behind the other."""
        words = self.words(line)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            self._one(words[:end])
            words = words[end + 1 :]

    def words(self, line: str) -> list[str]:
        """The words of a line, without comments, with variables in their places."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            return self.environment.get(name, os.environ.get(name, match[0]))

        text = re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, line)
        return shlex.split(text, comments=True)

    def _one(self, words: list[str]) -> None:
        settings: dict[str, str] = {}
        if words and words[0] == "export":
            words = words[1:]
        while words and (match := ASSIGNMENT.fullmatch(words[0])):
            settings[match[1]] = match[2]
            words = words[1:]
        if not words:
            self.environment |= settings
            return
        out = None
        if len(words) > 2 and words[-2] == ">":
            out, words = words[-1], words[:-2]
        name, arguments = words[0], words[1:]
        with patch.dict(os.environ, self.environment | settings), _written(self.folder, out):
            if name in PLAIN:
                subprocess.run(words, cwd=self.folder, check=True)
                return
            command = getattr(self, f"_{name.replace('-', '_')}", None)
            assert command is not None, (
                f"tests/support/document_shell.py can't run {name!r}: add it, or mark the block as not run"
            )
            command(arguments)

    def _fewclip(self, arguments: list[str]) -> None:
        command = arguments[0]
        arguments = [*arguments, *shlex.split(self.extra.get(command, ""))]
        if command in self.parsed:
            read_options(arguments)
            return
        if command == "serve":
            self._serve(arguments)
            return
        status = main(arguments)
        right = (0, *self.statuses.get(" ".join(arguments[:2]), ()))
        assert status in right, f"fewclip {' '.join(arguments)} ended with status {status}"

    def _serve(self, arguments: list[str]) -> None:
        """The server goes on in a thread to the end of the page; `curl` asks it."""
        from serving import served

        def run(app: Any, bound: Any, **_: Any) -> None:
            bound.close()
            self.address = self.until_the_end.enter_context(served(app))

        with patch("fewclip.serve.run.run", run):
            assert main([*arguments, "--port", "0"]) == 0

    def _curl(self, arguments: list[str]) -> None:
        asked = [word.replace(ADDRESS, self.address) for word in arguments]
        answer = subprocess.run(["curl", "-sS", "--fail", *asked], cwd=self.folder, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        print(answer.stdout)

    def _python(self, arguments: list[str]) -> None:
        if arguments[:2] == ["-m", "fewclip"]:
            self._fewclip(arguments[2:])
            return
        script = next(place / arguments[0] for place in (self.folder, ROOT) if (place / arguments[0]).is_file())
        if script.parent.name in ("benchmarks", "recipes"):  # take minutes: that their options are there is all
            text = script.read_text()
            for option in (word for word in arguments if word.startswith("--")):
                name = option[2:].partition("=")[0]
                assert name in text or name.replace("-", "_") in text, f"{script.name} has no option {option}"
            return
        with patch.object(sys, "argv", [str(script), *arguments[1:]]):
            runpy.run_path(str(script), run_name="__main__")

    def _pip(self, arguments: list[str]) -> None:
        """Nothing is installed: what is named has to be there, and extras in pyproject.toml."""
        assert arguments[0] == "install"
        part = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
        extras = set(re.findall(r"^(\w+) = ", part, flags=re.MULTILINE))
        for word in arguments[1:]:
            if match := re.fullmatch(r"(?:\.|fewclip)\[([\w,]+)\]", word):
                assert set(match[1].split(",")) <= extras, f"pyproject.toml has no extra {match[1]}"
            elif word.endswith(".txt"):
                assert (ROOT / word).is_file(), word

    def _make(self, arguments: list[str]) -> None:
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _pytest(self, arguments: list[str]) -> None:
        assert all((ROOT / word).exists() for word in arguments if not word.startswith("-")), arguments


def parse_only(line: str, shell: Shell) -> None:
    """Read the options of the command of fewclip in a line that is not run, also behind `docker run` or `accelerate launch`."""
    words = shell.words(line)
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        if word == "fewclip" and rest and (rest[0] in COMMANDS or (place == 0 and not rest[0].startswith("-"))):
            read_options(rest)


def read_options(arguments: list[str]) -> None:
    """Read the options of a command of fewclip as the command does, and stop there."""
    reading, choosing = tyro.cli, tyro.extras.subcommand_cli_from_dict

    def stop(*given: Any, **options: Any) -> Any:
        reading(*given, **options)
        raise Parsed

    def stop_in_each(commands: dict[str, Callable[..., Any]], **options: Any) -> Any:
        return choosing({name: _stopping(command) for name, command in commands.items()}, **options)

    with patch.object(tyro, "cli", stop), patch.object(tyro.extras, "subcommand_cli_from_dict", stop_in_each):
        try:
            main(arguments)
        except Parsed:
            return
    raise AssertionError(f"fewclip {' '.join(arguments)} was not understood")


def _stopping(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def stop(*_: Any, **__: Any) -> Any:
        raise Parsed

    return stop


@contextmanager
def _written(folder: Path, name: str | None) -> Iterator[None]:
    if name is None:
        yield
        return
    with (folder / name).open("w", encoding="utf-8") as file, redirect_stdout(file):
        yield
