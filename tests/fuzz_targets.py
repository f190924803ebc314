"""What reads bytes that strangers may have written. Each target reads a case and returns, or raises an error of ours."""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_files as files
from hypothesis import strategies as st
from mutations import NAMES, TEXT, Seeds, altered, json_like, like
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.adapter import CONFIG, WEIGHTS
from fewclip.clip import checkpoint, weights
from fewclip.clip.decode import read_image
from fewclip.clip.preprocess import Preprocess
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data import read_data
from fewclip.errors import FewclipError, PromptError


@dataclass(frozen=True)
class Target:
    """A reader, and what it is fed."""

    name: str
    cases: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], object]
    """Called with a case and an empty place for files."""
    valid: Callable[[], Sequence[Any]]
    """Cases that must be taken, so that not all are refused at the door."""
    share: float = 1.0
    """Of the time, among all targets: less where there is less to get wrong."""


def attempt(target: Target, case: Any, place: Path) -> bool:
    """Whether a reader took the case; False where it refused it in a sentence.

    Raises:
        Exception: anything else than an error of ours: a bug.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(case, place)
        except FewclipError as error:
            said = str(error)
            assert said, "an error without a sentence"
            assert said.isprintable(), said
            assert len(said) <= 2000, len(said)
            return False
        return True


# ---- images


def read_picture(case: bytes, place: Path) -> None:
    from fewclip.serve.limits import Limits, Refused, to_pixels

    preprocess = Preprocess(16)
    with suppress(Refused):
        assert to_pixels(case, preprocess, Limits(max_pixels=1_000_000)).shape == (3, 16, 16)
    (place / "image.jpg").write_bytes(case)
    found = read_image(place / "image.jpg", max_pixels=1_000_000)
    assert isinstance(found, Image.Image)
    assert found.mode == "RGB"
    assert preprocess(found).isfinite().all()


# ---- checkpoints


def read_weights(ending: str) -> Callable[[bytes, Path], None]:
    def read(case: bytes, place: Path) -> None:
        file = place / f"weights{ending}"
        file.write_bytes(case)
        found = weights.read(file)
        total = sum(t.numel() * t.element_size() for t in found.tensors.values())
        assert total <= 2 * len(case) + 1_000_000, total

    return read


def archives() -> st.SearchStrategy[bytes]:
    """Archives of torch's: bytes changed anywhere, or entries changed and the archive made anew."""
    valid = [*files.torch_files(), files.torchscript()]

    @st.composite
    def remade(draw: Callable[[Any], Any]) -> bytes:
        content = files.entries(valid[draw(st.sampled_from([0, 1, 3]))])
        pickled = [name for name in content if name.endswith(".pkl")]
        name = draw(st.sampled_from(pickled) | st.sampled_from(sorted(content)))
        content[name] = draw(like([content[name], *files.PICKLES]))
        if draw(st.booleans()):
            content[draw(NAMES.filter(lambda n: n.isprintable() and n != ""))] = draw(st.binary(max_size=20))
        return files.zipped(content, draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])))

    return st.one_of(like(valid), remade(), remade())


LOOK = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"shortest_edge": 16}, "resample": 3}


def good_folders() -> dict[str, dict[str, Any]]:
    """Files of whole checkpoints, in every layout."""
    configs, words, state = files.configs(), files.tokenizer_json(), files.safetensors_files()[0]
    shards = {"weight_map": {"a": "x.safetensors"}}
    return {
        "own": {"config.json": configs["own"], "model.safetensors": state, "tokenizer.json": words},
        "hf": {"config.json": configs["hf"], "model.safetensors": state, "tokenizer.json": words},
        "shards": {
            "config.json": configs["hf"], "model.safetensors.index.json": shards, "x.safetensors": state,
            "tokenizer.json": words,
        },
        "open_clip": {
            "open_clip_config.json": configs["open_clip"], "open_clip_model.safetensors": state, "tokenizer.json": words,
        },
    }  # fmt: skip


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def encoded(folder: dict[str, Any]) -> dict[str, bytes]:
    return {name: value if isinstance(value, bytes) else as_json(value) for name, value in folder.items()}


def folders() -> st.SearchStrategy[dict[str, bytes]]:
    """Files of a checkpoint's folder, of which one or two are altered."""
    good = good_folders()

    @st.composite
    def folder(draw: Callable[[Any], Any]) -> dict[str, bytes]:
        content: dict[str, Any] = dict(good[draw(st.sampled_from(sorted(good)))])
        if draw(st.booleans()):
            content["preprocessor_config.json"] = LOOK
        if draw(st.integers(0, 4)) == 0:
            del content["tokenizer.json"]
            content["vocab.json"], content["merges.txt"] = files.VOCABULARY, b"#version: 0.2\n"
        changed = draw(st.sets(st.sampled_from(sorted(content)), min_size=1, max_size=2))
        made = {}
        for name, value in content.items():
            if isinstance(value, bytes):
                made[name] = draw(like([value, b"a b\nc d"])) if name in changed else value
            else:
                made[name] = draw(json_like([value])) if name in changed else json.dumps(value).encode()
        return made

    return folder()


def read_folder(case: dict[str, bytes], place: Path) -> None:
    for name, data in case.items():
        (place / name).write_bytes(data)
    clip = checkpoint.load(str(place))
    assert clip.tokenizer is not None
    assert clip.preprocess is not None
    clip.preprocess(Image.new("RGB", (20, 30)))
    for name in ("cat", "a", "\u00e9", "?"):
        with suppress(PromptError):
            clip.tokenizer([name], 20)


# ---- adapters


@cache
def adapter(place: Path) -> tuple[dict[str, Any], bytes]:
    """Configuration and weights of one."""
    pairs = [(Image.new("RGB", (20, 20), c), c) for c in ("red", "blue", "lime")]
    classifier = FewShotClassifier("mmrl", files.tiny_with_words(), shots=None, epochs=1, rep_dim=8).fit(pairs)
    classifier.save(place)
    return json.loads((place / CONFIG).read_text()), (place / WEIGHTS).read_bytes()


def good_adapters() -> list[tuple[bytes, bytes]]:
    config, data = adapter(files.workplace() / "adapter")
    return [(as_json(config), data)]


def adapters() -> st.SearchStrategy[tuple[bytes, bytes]]:
    config, data = adapter(files.workplace() / "adapter")

    def signed(changed: bytes) -> tuple[bytes, bytes]:
        return json.dumps(config | {"weights_sha256": hashlib.sha256(changed).hexdigest()}).encode(), changed

    rich = altered(Seeds([config])) | json_like([config])
    inner = [altered(Seeds([config["settings"]])).map(json.loads), altered(Seeds([config["training"]])).map(json.loads)]
    deeper = st.tuples(*inner).map(lambda two: json.dumps(config | {"settings": two[0], "training": two[1]}).encode())
    return st.one_of(
        rich.map(lambda text: (text, data)), deeper.map(lambda text: (text, data)), like([data]).map(signed)
    )


def read_adapter(case: tuple[bytes, bytes], place: Path) -> None:
    (place / CONFIG).write_bytes(case[0])
    (place / WEIGHTS).write_bytes(case[1])
    classifier = FewShotClassifier.load(place, backbone=files.tiny_with_words())
    found = classifier.predict_proba(Image.new("RGB", (20, 20)))
    assert found.shape == (1, len(classifier.classes_))


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


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def row_files() -> st.SearchStrategy[bytes]:
    @st.composite
    def lines(draw: Callable[[Any], Any]) -> bytes:
        rows = files.result_rows()[draw(st.integers(0, 2))]
        made = [draw(altered(Seeds([row]))) if draw(st.booleans()) else json.dumps(row).encode() for row in rows]
        return b"\n".join(made) + b"\n" * draw(st.integers(0, 1))

    valid = [as_lines(rows) for rows in files.result_rows()]
    return st.one_of(lines(), lines(), like(valid), json_like([files.result_rows()[0][0]]))


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
    from fewclip.classes import check_names, make_prompts

    check_names(case, where="the test")
    prompts = make_prompts(case, "a photo of a {}.", tokenizer(), 77)
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
    return stack.enter_context(Asker(create_app(classifier, limits=Limits(max_classes=20, max_pixels=1_000_000))))


def read_request(case: Request, place: Path) -> None:
    status, said = application()(*case)
    assert 200 <= status < 500 or status == 503, (status, said[:200])
    if status >= 400:
        raise FewclipError(json.loads(said)["error"])


def tokens(case: bytes, place: Path) -> None:
    (place / "tokenizer.json").write_bytes(case)
    found = Tokenizer.from_folder(place)
    assert found is not None
    for text in ("cat", "\u00e9?", "", "\u0301" * 20):
        with suppress(PromptError):
            assert all(0 <= i < found.size for i in found.encode(text))


TARGETS = (
    Target("images", lambda: like(files.images()), read_picture, lambda: files.images()[:26], 2),
    Target(
        "checkpoint .safetensors",
        lambda: like(files.safetensors_files()),
        read_weights(".safetensors"),
        lambda: files.safetensors_files()[:2],
    ),
    Target("checkpoint .pt", archives, read_weights(".pt"), lambda: [*files.torch_files(), files.torchscript()], 2),
    Target(
        "checkpoint .pt, old pickle",
        lambda: like([*files.torch_files(False)[:2], *files.PICKLES]),
        read_weights(".pt"),
        lambda: files.torch_files(False),
    ),
    Target("checkpoint folder", folders, read_folder, lambda: [encoded(folder) for folder in good_folders().values()]),
    Target(
        "tokenizer.json", lambda: json_like([files.tokenizer_json()]), tokens, lambda: [as_json(files.tokenizer_json())]
    ),
    Target("adapter", adapters, read_adapter, good_adapters),
    Target("CSV", csv_files, read_table, lambda: [TABLE]),
    Target("split file", lambda: json_like([PARTS]), read_split, lambda: [as_json(PARTS)]),
    Target("variant lists", variants, read_variants, lambda: [(b"707-320\nF-16A/B\n", b"1 707-320\n")], 0.5),
    Target("result rows", row_files, read_results, lambda: [as_lines(rows) for rows in files.result_rows()]),
    Target("result rows, page", row_files, read_page, lambda: [as_lines(files.result_rows()[1])], 0.5),
    Target("class names", texts, read_names, lambda: [["cat", "a_b", "\u732b"]]),
    Target("requests", requests, read_request, lambda: [form_request(), json_request()], 2),
)
