"""Data, result rows, class names and requests: what fuzzing feeds to their readers, and how it calls them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_files as files
from fuzz_models import adapter, as_json
from hypothesis import strategies as st
from mutations import NAMES, TEXT, Seeds, altered, json_like, like

from fewclip import FewShotClassifier
from fewclip.clip.decode import read_image
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data.read import read_data
from fewclip.errors import FewclipError

# ---- data


TABLE = b"path,class,split\na/1.png,cat,train\nb/1.png,dog,test\n"
PARTS = {"train": [["a/1.png", 0, "cat"], ["b/1.png", 1, "dog"]], "val": [], "test": [["a/1.png", 0, "cat"]]}


def csv_files() -> st.SearchStrategy[bytes]:
    lines = [
        "path,class,split",
        "path,class",
        "a/1.png,cat,train",
        "b/1.png,dog,test",
        "a/1.png;cat",
        '"a/1.png","cat\nx"',
    ]
    strange = NAMES | TEXT | st.sampled_from(["a/1.png", "cat", "x" * 140_000, '"', "a\tb", "test"])
    row = st.lists(strange, max_size=4).map(",".join)
    some = st.lists(st.sampled_from(lines) | row, max_size=6).map(lambda rows: ["path,class", *rows])
    encoded = some.map(lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass"))
    return encoded | like([TABLE])


def read_table(case: bytes, place: Path) -> None:
    files.put_images(place)
    (place / "labels.csv").write_bytes(case)
    for split in ("train", "test"):
        data = read_data(place / "labels.csv", split)
        for image in data.images:
            read_image(image)


def read_split(case: bytes, place: Path) -> None:
    files.put_images(place / "images")
    (place / "split_zhou_DescribableTextures.json").write_bytes(case)
    for split in ("train", "test"):
        read_data(place, split)


def variants() -> st.SearchStrategy[tuple[bytes, bytes]]:
    lists = like([b"707-320\nF-16A/B\n"]), like([b"1 707-320\n../2 F-16A/B\n", b"1 707-320\n"])
    return st.tuples(*lists)


def read_variants(case: tuple[bytes, bytes], place: Path) -> None:
    (place / "images").mkdir()
    (place / "images" / "1.jpg").write_bytes(files.images()[7])
    (place / "variants.txt").write_bytes(case[0])
    (place / "images_variant_train.txt").write_bytes(case[1])
    read_data(place)


# ---- result rows


def as_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def row_files() -> st.SearchStrategy[bytes]:
    @st.composite
    def lines(draw: Callable[[Any], Any]) -> bytes:
        rows = files.result_rows()[draw(st.integers(0, 2))]
        made = [draw(altered(Seeds([row]))) if draw(st.booleans()) else json.dumps(row).encode() for row in rows]
        return b"\n".join(made) + b"\n" * draw(st.integers(0, 1))

    valid = [as_lines(rows) for rows in files.result_rows()]
    return st.one_of(lines(), lines(), like(valid), json_like([dict(files.result_rows()[0][0])]))


def read_results(case: bytes, place: Path) -> None:
    from fewclip.report.build import build
    from fewclip.report.collect import load
    from fewclip.report.text import comma_separated, latex, markdown

    (place / "rows.jsonl").write_bytes(case)
    report = build(load([place]))
    for text in (markdown(report), latex(report), comma_separated(report)):
        assert "\x1b" not in text
        text.encode()


def read_page(case: bytes, place: Path) -> None:
    from fewclip.report.build import build
    from fewclip.report.collect import load
    from fewclip.report.html import page

    (place / "rows.jsonl").write_bytes(case)
    assert "<script>alert" not in page(build(load([place])))


# ---- texts


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.clip()


def texts() -> st.SearchStrategy[list[str]]:
    some = (
        st.text(st.characters(exclude_categories=()), max_size=400)
        | NAMES
        | st.text("'s \u0301<|endoftext|>_", max_size=40)
    )
    return st.lists(some, min_size=1, max_size=3)


def read_names(case: list[str], place: Path) -> None:
    from fewclip.data.names import check_names
    from fewclip.methods.classes import ClassTexts

    check_names(case, where="the test")
    prompts = ClassTexts(case, "a photo of a {}.", tokenizer()).prompts("a photo of a {}.")
    assert len(prompts) == len(case)


# ---- requests


Request = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers, body."""


def form_request() -> Request:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    more = b'\r\n--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
    body = head + files.images()[0] + more % (b"classes", b"a zebra") + more % (b"top", b"3") + b"\r\n--x--\r\n"
    return "POST", "/predict", {"content-type": "multipart/form-data; boundary=x"}, body


def json_request() -> Request:
    picture = base64.b64encode(files.images()[0]).decode()
    body = {"images": [picture], "classes": ["red", "tram"], "top": 2}
    return "POST", "/predict", {"content-type": "application/json"}, as_json(body)


def requests() -> st.SearchStrategy[Request]:
    form, question = form_request()[3], json.loads(json_request()[3])
    named = (
        form.replace(b"a.png", b"\xff\xfe.png"),
        form.replace(b'="a.png"', b"*=utf-8''%ff"),
        form.replace(b"3", b"9" * 400),
    )
    kinds = ["multipart/form-data; boundary=x", "application/json", "text/plain", "application/x-www-form-urlencoded"]
    charsets = ["undefined", "idna", "utf-16", "unicode_escape", "\0", "zlib", "punycode", "utf-7", "x" * 200]
    kinds += [f"multipart/form-data; boundary=x; charset={c}" for c in charsets] + [
        "multipart/form-data",
        "multipart/form-data; boundary=",
    ]
    header = st.dictionaries(
        st.sampled_from(
            ["authorization", "content-length", "x", "expect", "transfer-encoding", "sec-fetch-site", "host"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
        max_size=2,
    )
    odd = {"images": [""], "\ud800": 1}
    forms = st.tuples(st.sampled_from(kinds[:1] * 3 + kinds), like([form, *named]))
    jsons = st.tuples(st.sampled_from(kinds[1:2] * 4 + kinds), json_like([question, {"classes": ["tram"]}, odd]))
    body = forms | jsons
    paths = st.sampled_from(
        ["/predict", "/predict", "/predict", "/classes", "/", "/docs", "/x\0", "/..%2f", "/metrics"]
    )
    return st.tuples(st.sampled_from(["POST", "POST", "GET", "PUT"]), paths, header, body).map(
        lambda four: (four[0], four[1], four[2] | {"content-type": four[3][0]}, four[3][1])
    )


@cache
def application() -> Callable[..., tuple[int, bytes]]:
    """Asks the server's application, which runs until the process ends."""
    from asking import Asker

    from fewclip.serve.app import create_app
    from fewclip.serve.limits import Limits

    adapter(files.workplace() / "adapter")
    classifier = FewShotClassifier.load(files.workplace() / "adapter", backbone=files.tiny_with_words())
    stack = ExitStack()
    return stack.enter_context(
        Asker(create_app(classifier.adapter_, limits=Limits(max_classes=20, max_pixels=1_000_000)))
    )


def read_request(case: Request, place: Path) -> None:
    status, said = application()(*case)
    assert 200 <= status < 500 or status == 503, (status, said[:200])
    if status >= 400:
        raise FewclipError(json.loads(said)["error"])
