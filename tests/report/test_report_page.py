"""The page: what is in it, and how a browser shows it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import CONTRASTS
from results import HOSTILE, everything, halves, row, write

from fewclip.data.read import read_data
from fewclip.report.build import build

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("matplotlib", reason="the extra report is not installed")
from fewclip.bench.rows import Row
from fewclip.cli import main
from fewclip.report.html import page


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Everything, and a data set whose images are at hand."""
    test = read_data("icons", "test")
    examples = [
        {"key": test.keys[i], "truth": test.classes[test.labels[i]], "guess": guess, "probability": 0.6}
        for i, guess in ((0, test.classes[test.labels[0]]), (1, "wrong"), (2, HOSTILE))
    ]
    return [*everything(), *halves("mmrl", "icons", 1, 80.0, 60.0, examples=examples)]


@pytest.fixture(scope="module")
def html(rows: list[Row]) -> str:
    return page(build(rows, f"Title {HOSTILE}"))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_nothing_comes_from_elsewhere(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    for tag, attributes in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, attributes)
    assert "url(http" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_names_are_text(html: str) -> None:
    assert HOSTILE not in html
    assert html.count("<script>") == 1  # ours
    assert "&lt;script&gt;alert" in html


def test_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    ids = [a["id"] for _, a in tags.found if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in tags.found:
        link = attributes.get("href") or ""
        assert not link.startswith("#") or link[1:] in ids
    for name in set(re.findall(r"url\(#([^)]+)\)", html)):
        assert name in ids


def test_tables_and_plots_can_be_heard(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    heads = [a for tag, a in tags.found if tag == "th"]
    assert heads
    assert all(a.get("scope") in ("col", "colgroup", "row", "rowgroup") for a in heads)
    assert sum(tag == "caption" for tag, _ in tags.found) == sum(tag == "table" for tag, _ in tags.found) > 20
    plots = [a for _, a in tags.found if a.get("role") == "img"]
    assert plots
    assert all(re.search(r"\d\d\.\d", a.get("aria-label") or "") for a in plots)
    assert all(a.get("alt") for tag, a in tags.found if tag == "img")


def test_plots_have_the_colours_of_the_page(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) > 15
    for drawing in drawings:
        ET.fromstring(drawing)
        assert not re.search(r"#[0-9a-f]{6}\b", drawing), re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--s1)" in drawing


def test_pictures_are_there_where_the_data_is(html: str) -> None:
    assert html.count('src="data:image/jpeg;base64,') == 3
    assert "images/caltech101/000.jpg" in html  # a name instead


def test_odd_names_are_drawn() -> None:
    rows = [*halves("$x_{", "$\\frac", 1, 80.0, 60.0), *halves("数据\x00", "$\\frac", 1, 90.0, 70.0)]
    assert "$x_{" in page(build(rows))


def test_odd_numbers_are_drawn() -> None:
    rows = [
        *halves("mmrl", "dtd", 1, 0.0, 0.0, train_seconds=0.0, parameters=0),
        *halves("mmrlpp", "dtd", 1, 100.0, 100.0, train_seconds=1e-3, parameters=10**12),
        *halves("coop", "dtd", 1, 100.0, 0.0, train_seconds=None, parameters=None),
        row(protocol="few-shot", split="all", shots=None),
        row(protocol="few-shot", split="all", shots=4),
    ]
    assert "<svg" in page(build(rows))


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(tmp_path / "rows.jsonl", halves("mmrl", "dtd", 1, 80.0, 60.0))
    assert main(["report", str(place), "-o", str(tmp_path / "r.html"), "--root", str(tmp_path)]) == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert "r.html: Base to novel, 1 data set: MMRL has" in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(browser: Any, html: str, tmp_path: Path, width: int, scheme: str) -> None:
    file = tmp_path / "report.html"
    file.write_text(html)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # the page never scrolls sideways
    tab.evaluate("scrollTo(99, 0)")
    assert tab.evaluate("scrollX") == 0
    assert tab.locator("table").count() > 20
    assert tab.locator("svg").count() > 15
    lowest, text = tab.evaluate(CONTRASTS)
    assert lowest >= 4.5, text  # WCAG AA
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 384) == (scheme == "light")
    context.close()


def test_wide_tables_scroll_under_their_first_column(browser: Any, html: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html)
    tab = browser.new_page(viewport={"width": 390, "height": 900})
    tab.goto(file.as_uri())
    box = tab.locator("#s1-base-to-novel-t1 .scroll")
    first = tab.locator("#s1-base-to-novel-t1 tbody th").first
    before = first.bounding_box()["x"]
    box.evaluate("e => e.scrollLeft = 300")
    assert box.evaluate("e => e.scrollLeft") == 300
    assert abs(first.bounding_box()["x"] - before) < 1
    tab.close()


def test_columns_sort_and_averages_stay(browser: Any, html: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(file.as_uri())
    table = tab.locator("#s1-base-to-novel-t1 table")

    def column() -> list[float]:
        texts: list[str] = table.locator("tbody tr td:nth-child(2)").evaluate_all(
            "cells => cells.map(c => c.dataset.v)"
        )
        return [float(text or "nan") for text in texts]

    for direction, reverse in (("descending", True), ("ascending", False)):
        table.get_by_role("button", name="Base").first.click()
        *values, missing, _ = column()
        assert math.isnan(missing)  # whichever the order, what has no number comes last
        assert values == sorted(values, reverse=reverse)
        assert table.locator(f"th[aria-sort={direction}]").count() == 1
        assert table.locator("tbody tr").last.locator("th").inner_text() == "Average"
    tab.close()
