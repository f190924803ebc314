"""Every block of README.md and docs/ that a reader would run is run, or says why not; docs/methods.md names every method.

Not everything runs as it is printed. `tests/support/document_table.py` replaces what would take hours or needs a network, and
commands in its `PARSED` are only read; `tests/support/document_shell.py` checks `pip`, `make`, `pytest` and the scripts of
benchmarks/ without running them.
"""

from __future__ import annotations

import linecache
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from document_shell import Shell, lines, parse_only
from document_table import EVERYWHERE, EXTRA, PAGES, PARSED, Page
from documents import COMMAND, FENCE, ROOT, Block, blocks, pages
from pictures import picture

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.methods import METHODS
from fewclip.training.settings import TrainSettings

TO_RUN = [page for page in pages() if any(block.kind for block in blocks(page))]
MOST_EXEMPT = 0.15
"""Share of the blocks that may be marked as not run."""


def python(block: Block, text: str, module: types.ModuleType) -> None:
    """Run a block in the page's module; a traceback shows its lines."""
    name = f"{block.place} (block)"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), module.__dict__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a page's commands, empty, without settings of the machine's own."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    for variable in ("FEWCLIP_DATA", "FEWCLIP_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    return place


@pytest.mark.parametrize("page", TO_RUN)
def test_the_blocks_of_a_page_run(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one folder and one module."""
    table = PAGES.get(page, Page())
    for make in table.has:
        make(folder)
    module = types.ModuleType(re.sub(r"\W", "_", page))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    shell = Shell(folder, EXTRA, table.statuses, PARSED)
    with shell.until_the_end:
        for block in blocks(page):
            text = block.text
            for said, run in (EVERYWHERE | table.replace).items():
                text = text.replace(said, run)
            if block.kind == "python" and block.reason is None:
                python(block, text, module)
            for line in lines(text) if block.kind == "shell" else ():
                try:
                    shell.run(line) if block.reason is None else parse_only(line, shell)
                except (Exception, SystemExit) as error:
                    shown = capsys.readouterr()
                    raise AssertionError(f"{block.place}: {line}\n{shown.out}{shown.err}") from error


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    runnable = [block for page in pages() for block in blocks(page) if block.kind]
    exempt = [block for block in runnable if block.reason is not None]
    print("\n".join(f"{block.place} is not run: {block.reason}" for block in exempt))
    for block in exempt:
        assert len((block.reason or "").split()) >= 3, f"{block.place}: say what it needs"
    assert len(exempt) <= MOST_EXEMPT * len(runnable), [block.place for block in exempt]


def test_what_is_to_be_run_is_marked_as_such() -> None:
    """A block of commands without a language would not be run, and nobody would notice."""
    for page in pages():
        for block in blocks(page):
            if not block.language:
                assert not COMMAND.search(block.text), f"{block.place} holds commands: mark it as bash or python"


def test_the_table_names_what_is_there() -> None:
    for page, table in PAGES.items():
        if not (ROOT / page).exists():
            continue
        text = (ROOT / page).read_text()
        for said in table.replace:
            assert said in text, f"tests/support/document_table.py replaces {said!r}, which {page} no longer says"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fewclip bench few-shot --shoots 4 -o out", "shoots"),
        ("fewclip data check ROOT --picures", "picures"),
        ("fewclip fit photos -o a --method mmrl --beta 0.5", "beta"),
    ],
)
def test_a_wrong_option_is_seen_where_nothing_runs(
    line: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_only(line, Shell(folder, {}, {}))
    assert words in capsys.readouterr().err


def test_commands_in_the_sentences_of_readme(tmp_path: Path) -> None:
    """Those in tables and sentences are not run, but they have these options, tests and targets."""
    text = FENCE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    commands = [code for code in re.findall(r"`((?:fewclip|pytest|make) [^`]+)`", text) if "…" not in code]
    assert len(commands) >= 12
    shell = Shell(tmp_path, EXTRA, {}, ("predict", "serve", "export", "push", "fit"))
    for command in commands:
        if command.endswith(" --help"):
            with pytest.raises(SystemExit, match="0"):
                shell.run(command)
        else:
            shell.run(command)


def test_a_new_method_in_one_file(backbone: CLIP, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = types.ModuleType("text_shift")
    monkeypatch.setitem(sys.modules, "text_shift", module)
    for block in blocks("docs/new_method.md"):
        if block.kind == "python":
            python(block, block.text, module)
    monkeypatch.setitem(METHODS, "text-shift", module.TextShift)
    monkeypatch.setitem(METHODS, "short-text-shift", module.ShortTextShift)
    pairs = [
        (picture(colour, i), name)
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200)))
        for i in range(4)
    ]
    classifier = FewShotClassifier("text-shift", backbone, shots=None, epochs=5, start=0.02).fit(pairs)
    assert TrainSettings(**classifier.adapter_.training.settings).lr == 0.1
    assert classifier.adapter_.training.history[-1]["loss"] < classifier.adapter_.training.history[0]["loss"]
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    image = pairs[0][0]
    assert (again.predict_proba(image, ["red", "green"]) == classifier.predict_proba(image, ["red", "green"])).all()
    short = FewShotClassifier("short-text-shift", backbone, shots=None, epochs=5, lr=0.1, start=0.02).fit(pairs)
    assert short.adapter_.training.history[0]["loss"] > short.adapter_.training.history[-1]["loss"]


def test_every_method_is_described() -> None:
    page = (ROOT / "docs/methods.md").read_text()
    for name, method in METHODS.items():
        assert f"**{name}**" in page, name
        if method.parameters_b16 not in ("0", "8,192 per class (16 shots)"):
            assert f"**{name}** ({method.parameters_b16})" in page, name


def test_choosing_says_what_the_methods_say() -> None:
    page = (ROOT / "docs/choosing.md").read_text().partition("## All methods")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    for name, new, training, _, schedule in rows:
        method = METHODS[name.strip("`")]
        assert new.startswith("yes") == bool(method.new_classes), name
        settings = TrainSettings(**method.train_settings)
        epochs = str(settings.epochs) if settings.epochs else f"{settings.steps_per_shot} steps per shot"
        assert schedule == (f"{epochs}, {settings.batch_size}" if "steps" in training else ""), name


def test_choosing_takes_its_numbers_from_the_results() -> None:
    said = (ROOT / "docs/choosing.md").read_text().partition("## What we measured")[2]
    report = (ROOT / "docs/results/icon-clip/report.md").read_text()
    found = {f"{float(number):.1f}" for number in re.findall(r"\d+\.\d\d", report)}
    numbers = re.findall(r"(\d+\.\d) %", said)
    assert len(numbers) >= 8
    assert set(numbers) <= found, set(numbers) - found
