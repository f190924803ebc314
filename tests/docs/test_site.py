"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and can be read and searched."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from documents import ROOT

for package in ("mkdocs", "material", "mkdocstrings_handlers"):
    if find_spec(package) is None:
        pytest.skip(f"the extra docs is not installed ({package} is missing)", allow_module_level=True)

WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
LOOKED_AT = (
    "index.html",
    "quickstart.html",
    "choosing.html",
    "api/classifier.html",
    "results/index.html",
    "equations.html",
    "performance.html",
)
DOCUMENTED = (
    "fewclip.classifier.FewShotClassifier.fit",
    "fewclip.classifier.FewShotClassifier.predict_proba",
    "fewclip.methods.base.Method.loss",
    "fewclip.data.dataset.Dataset.few_shot",
    "fewclip.data.read.read_data",
    "fewclip.clip.model.CLIP.from_pretrained",
    "fewclip.bench.evaluation.evaluate",
    "fewclip.bench.evaluation.Result.calibration_error",
    "fewclip.bench.protocols.base_to_novel",
    "fewclip.bench.sweep.Sweep.runs",
    "fewclip.serve.app.create_app",
    "fewclip.adapters.onnx.export",
    "fewclip.errors.DataError",
)


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser would load for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") not in ("prev", "next"):
            self.loads.append(found.get("href", ""))
        if tag in ("script", "img", "iframe", "source", "object", "embed"):
            self.loads += [found[name] for name in ("src", "srcset", "data") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    place = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def read(site: Path) -> dict[str, Page]:
    """Every page by its path below the site."""
    found = sorted(site.rglob("*.html"))
    return {page.relative_to(site).as_posix(): Page(page.read_text(encoding="utf-8")) for page in found}


def test_make_docs_builds_it() -> None:
    asked = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "mkdocs build --strict" in asked
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_page_is_there(read: dict[str, Page]) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        page = source.relative_to(ROOT / "docs").with_suffix(".html").as_posix().replace("README.html", "index.html")
        assert page in read
    assert {"changelog.html", "contributing.html"} <= read.keys()


def test_no_link_leads_nowhere(read: dict[str, Page], site: Path) -> None:
    for name, page in read.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or name == "404.html":
                continue
            path, anchor = urldefrag(unquote(link))
            target = (site / name).parent.joinpath(path).resolve() if path else site / name
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{name} links to {link}"
            if anchor and target.suffix == ".html":
                assert anchor in read[target.relative_to(site).as_posix()].anchors, f"{name} links to {link}"


def test_nothing_is_loaded_from_elsewhere(read: dict[str, Page], site: Path) -> None:
    for name, page in read.items():
        for address in page.loads:
            assert not re.match(r"([a-z]+:)?//", address), f"{name} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_no_rows_and_no_code_of_the_site_are_published(site: Path) -> None:
    assert not [*site.rglob("*.jsonl"), *site.rglob("*.py")]


def test_docstrings_are_rendered(read: dict[str, Page], site: Path) -> None:
    anchors = {anchor for name, page in read.items() if name.startswith("api/") for anchor in page.anchors}
    assert set(DOCUMENTED) <= anchors
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        unread = re.search(r"<p>\s*(Raises|Args|Returns|Attributes)\b[^<]*:", text)
        assert unread is None, f"{page.name}: a section that was not understood: {unread and unread[0]}"


@contextmanager
def web(site: Path) -> Iterator[str]:
    """The address of a plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(browser: Any, site: Path, width: int, scheme: str) -> None:
    """From the disk: no other request, no error, no sideways scroll, light or dark as the reader prefers."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    for page in LOOKED_AT:
        tab.goto((site / page).as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
        assert tab.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    assert messages == []
    assert [url for url in requests if not url.startswith((site.as_uri(), "data:", "about:"))] == []
    context.close()


@pytest.mark.parametrize("place", ["disk", "web"])
def test_search(browser: Any, site: Path, place: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    with web(site) as address:
        start = address if place == "web" else site.as_uri() + "/"
        tab.goto(f"{start}index.html")
        tab.click(".md-search__input")
        tab.keyboard.type("harmonic mean", delay=10)
        tab.wait_for_selector(".md-search-result__item", timeout=20_000)
        titles = " ".join(tab.locator(".md-search-result__item h1, .md-search-result__item h2").all_inner_texts())
        assert "Reports" in titles
        assert [url for url in asked if not url.startswith((start, "data:", "about:", "blob:"))] == []
    tab.close()
