"""A report as Markdown, LaTeX or CSV: the tables, no pictures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator

from fewclip.files.markdown import markdown_table
from fewclip.report.build import Report, Section
from fewclip.report.tables import Cell, Table

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~$&])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "`": r"\textasciigrave{}", '"': r"\textquotedbl{}", "−": "$-$", "±": r"$\pm$", "–": "--", "…": r"\dots{}", "×": r"$\times$",
    "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "†": r"$\dagger$", "’": "'",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which have a meaning after a line end
}  # fmt: skip


def sections(report: Report) -> Iterator[tuple[str, Section | None, list[Table]]]:
    """Heading, section, tables: all of a report that is a table."""
    yield "Summary", None, list(report.summary)
    for section in report.sections:
        heading = f"{section.title} ({section.conditions})" if section.conditions else section.title
        yield heading, section, [*section.tables, *(table for _, table in section.confusions)]
    if report.failed is not None:
        yield report.failed.title, None, [report.failed]


def markdown(report: Report) -> str:
    parts = [f"# {md(report.title)}", md(report.headline)]
    parts += [f"> **{md(caveat)}**" for caveat in report.caveats]
    parts.append("\n".join(f"* {name}: {md(value)}" for name, value in report.facts))
    for heading, _, tables in sections(report):
        parts.append(f"## {md(heading)}")
        for table in tables:
            parts += [f"### {md(table.title)}"] if table.title != heading else []
            parts.append(_markdown_table(table))
            parts += [md(" ".join(table.notes))] if table.notes else []
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    stub = [table.group_corner or "Group"] if table.grouped else []
    head = [md(text) for text in (*stub, table.corner, *table.headings())]
    words = len(stub) + 1
    numbers = [words + i for i in range(len(table.columns)) if i not in table.text_columns]
    lines = []
    for line in table.lines:
        cells = [_cell(c, md, "**{}**", " ± ") for c in line.cells]
        lines.append([*([md(line.group)] if stub else []), md(line.label), *cells])
    return markdown_table(head, lines, right=numbers)


def md(text: str) -> str:
    """Text that Markdown and the HTML made of it show as it is, in one line."""
    return _MARKDOWN.sub(r"\\\1", _line(text)).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def latex(report: Report) -> str:
    parts = [
        f"% {_line(report.title)}",
        *(f"% {caveat}" for caveat in map(_line, report.caveats)),
        "% \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{graphicx}",
    ]
    for heading, _, tables in sections(report):
        parts += [_latex_table(table, heading) for table in tables]
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table, heading: str) -> str:
    stub = [table.group_corner or "Group"] if table.grouped else []
    words = len(stub) + 1
    columns = "l" * words + "".join("l" if i in table.text_columns else "r" for i in range(len(table.columns)))
    lines = []
    if table.groups:
        above = [f"\\multicolumn{{{span}}}{{c}}{{{tex(name)}}}" for name, span in table.groups]
        lines.append("& " * (words - 1) + "& " + " & ".join(above) + r" \\")
        start, rules = words + 1, []
        for _, span in table.groups:
            rules.append(f"\\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        lines.append("".join(rules))
    lines += [" & ".join(tex(t) for t in (*stub, table.corner, *table.columns)) + r" \\", r"\midrule"]
    for i, line in enumerate(table.lines):
        if i and (line.total or (stub and line.group != table.lines[i - 1].group)):
            lines.append(r"\midrule")
        cells = [_cell(c, tex, r"\textbf{{{}}}", r" {\scriptsize$\pm$}\,") for c in line.cells]
        lines.append(" & ".join([*([tex(line.group)] if stub else []), tex(line.label), *cells]) + r" \\")
    fit = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"  # smaller only where it is too wide
    body = [fit, f"\\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}}"]
    heading_text = table.title if table.title == heading else f"{heading}. {table.title}"
    caption = " ".join([f"{heading_text}.", *table.notes])
    return "\n".join([r"\begin{table}", r"\centering", f"\\caption{{{tex(caption)}}}", *body, r"\end{table}"])


def tex(text: str) -> str:
    """Text that LaTeX sets as it is, in one line."""
    return "".join(_LATEX.get(c, c) for c in _line(text))


def comma_separated(report: Report) -> str:
    """One line a number, of all tables: for a spreadsheet or a program."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    conditions = ("protocol", "ablation", "backbone", "preset", "shots", "source")
    place = ("table", "group", "line", "column")
    writer.writerow(("section", *conditions, *place, "value", "sd", "text", "best", "lacks"))
    for heading, section, tables in sections(report):
        where = [getattr(section.group.scope, name) if section else None for name in conditions]
        for table in tables:
            for line in table.lines:
                for name, c in zip(table.headings(), line.cells, strict=True):
                    if c.value is None and not c.text:
                        continue
                    sd = None if c.sd is None else round(c.sd, 4)
                    value = None if c.value is None else round(c.value, 4)
                    texts = [heading, *where, table.title, line.group, line.label, name]
                    words = [_harmless(t) for t in texts]
                    writer.writerow([*words, value, sd, _harmless(c.text), "yes" if c.best else "", c.note])
    return out.getvalue()


def _harmless(value: object) -> object:
    """One line of visible characters, and no formula for a spreadsheet."""
    if not isinstance(value, str):
        return value
    value = _line(value)
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _cell(cell: Cell, escape: Callable[[str], str], bold: str, plus_minus: str) -> str:
    shown = cell.shown
    if cell.value is None:
        return escape(shown)
    shown = escape(shown) if escape is tex else shown
    shown = bold.format(shown) if cell.best else shown
    shown += plus_minus + cell.spread if cell.spread else ""
    return shown + (f" ({escape(cell.note)})" if cell.note else "")


def _line(text: str) -> str:
    """One line of visible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
