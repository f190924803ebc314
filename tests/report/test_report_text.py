"""Reports as Markdown, LaTeX and CSV, the command, and its mistakes."""

from __future__ import annotations

import builtins
import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from results import HOSTILE, everything, halves, row, write

from fewclip.cli import main
from fewclip.report.build import build
from fewclip.report.text import comma_separated, latex, markdown, md, tex

Capture = pytest.CaptureFixture[str]
REPORT = build(everything(), "A & B_1")


def test_markdown_tables_are_whole() -> None:
    text = markdown(REPORT)
    assert text.startswith("# A &amp; B\\_1\n")
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) > 20
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "| Caltech101 | 77.20 | 83.80 | 80.36 |" in text
    assert "**95.00** ± 0.33" in text
    assert "(2/3)" in text
    assert "## Failed runs" in text
    assert "not comparable" in text


def test_hostile_names_stay_text() -> None:
    text = markdown(REPORT)
    assert "<script" not in text
    assert "<b>" not in text
    assert "data:image" not in text
    assert md("a|b\n*c* `d` [e](f) <g> \\ $h$ &amp;") == r"a\|b \*c\* \`d\` \[e\](f) &lt;g&gt; \\ \$h\$ &amp;amp;"
    assert tex("[2pt] *") == "{[}2pt{]} {*}"
    assert tex("50% of_a & b\\input{x} #1 ~^ $y$ <z>\n") == (
        r"50\% of\_a \& b\textbackslash{}input\{x\} \#1 \textasciitilde{}\textasciicircum{} \$y\$ \textless{}z\textgreater{}"
    )


def test_latex_is_balanced() -> None:
    text = latex(REPORT)
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 20
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert HOSTILE not in text
    assert r"\textbf{95.00} {\scriptsize$\pm$}\,0.33" in text
    for body in re.findall(r"\\begin{tabular}{(l*r*[lr]*)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        lines = [line for line in body[1].splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(body[0]) - 1}


def test_csv_has_a_line_a_number() -> None:
    rows = [*halves("mmrl", "=cmd()", 1, 80.0, 60.0), *halves("mmrlpp", "=cmd()", 1, 82.0, 61.0)]
    lines = list(csv.DictReader(io.StringIO(comma_separated(build(rows)))))
    (base,) = [x for x in lines if x["table"].startswith("Accuracy") and x["column"] == "MMRL++, Base"]
    assert (base["value"], base["best"], base["protocol"], base["shots"]) == ("82.0", "yes", "base-to-novel", "16")
    assert base["line"] == "'=cmd()"  # no formula
    assert not any(value.startswith("=") for x in lines for value in x.values())


@pytest.mark.parametrize("name", ["r.md", "r.tex", "r.csv"])
def test_the_suffix_says_the_format(tmp_path: Path, name: str, capsys: Capture) -> None:
    place = write(tmp_path / "results" / "rows.jsonl", halves("mmrl", "dtd", 1, 80.0, 60.0))
    assert main(["report", str(place.parent), "-o", str(tmp_path / name)]) == 0
    assert "MMRL has 68.6 % (HM)." in capsys.readouterr().out
    text = (tmp_path / name).read_text()
    assert {"r.md": "| DTD |", "r.tex": "\\toprule", "r.csv": "section,protocol"}[name] in text


def test_tables_are_printed_without_a_file(tmp_path: Path, capsys: Capture) -> None:
    place = write(tmp_path / "rows.jsonl", halves("mmrl", "dtd", 1, 80.0, 60.0))
    for kind, word in (("md", "| DTD |"), ("latex", "\\toprule"), ("csv", "section,")):
        assert main(["report", str(place), "--format", kind]) == 0
        assert word in capsys.readouterr().out
    assert main(["report", str(place), "--title", "Mine"]) == 0
    assert capsys.readouterr().out.startswith("# Mine\n")


def mistake(capsys: Capture, *arguments: object) -> str:
    assert main(["report", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fewclip report: ")
    assert message.count("\n") == 1
    return message


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert "There are no results at" in mistake(capsys, tmp_path / "nowhere")
    empty = write(tmp_path / "empty.jsonl", [])
    assert "no run has finished there yet" in mistake(capsys, empty)
    assert "are of zoo" in mistake(capsys, write(tmp_path / "zoo.jsonl", [row(protocol="zoo")]))
    place = write(tmp_path / "good.jsonl", halves("mmrl", "dtd", 1, 80.0, 60.0))
    assert "add -o report.html" in mistake(capsys, place, "--format", "html")
    assert "Could not write" in mistake(capsys, place, "-o", place / "r.md")
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    bent = write(tmp_path / "bent.jsonl", [{**dict(row()), "seed": None, "dataset": 3}])
    assert "has no usable dataset, seed" in mistake(capsys, bent)
    assert "is not a result row" in mistake(capsys, tmp_path / "bad.jsonl")


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, missing: str
) -> None:
    place = write(tmp_path / "rows.jsonl", halves("mmrl", "dtd", 1, 80.0, 60.0))
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    message = mistake(capsys, place, "-o", tmp_path / "r.html")
    assert f"needs {missing}: pip install 'fewclip[report]'" in message
    assert main(["report", str(place), "-o", str(tmp_path / "r.md")]) == 0  # which needs nothing more
