"""The server's interface: what it answers, and what it refuses."""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
from fastapi.testclient import TestClient
from pictures import COLOURS, picture
from prometheus_client.parser import text_string_to_metric_families
from serving import SECRET, base64_of, encoded, fitted, png

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.serve.app import create_app
from fewclip.serve.limits import Limits
from fewclip.serve.server import Batching


@pytest.fixture(scope="module")
def trained(backbone_file: Any) -> FewShotClassifier:
    return fitted(CLIP.from_pretrained(str(backbone_file)))


@pytest.fixture
def classifier(trained: FewShotClassifier) -> FewShotClassifier:
    """One that nothing was added to."""
    fresh = copy(trained)
    fresh.adapter_ = copy(trained.adapter_)
    fresh.adapter_.added_classes = []
    return fresh


@pytest.fixture
def client(classifier: FewShotClassifier) -> Iterator[TestClient]:
    limits = Limits(
        max_images=4, max_bytes=300_000, max_body=1_000_000, max_pixels=10_000, max_new_classes=5, max_classes=10
    )
    with TestClient(create_app(classifier.adapter_, limits=limits)) as client:
        yield client


def files(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{n}.png", data)) for n, data in enumerate(images)]


def rows(answer: Any, classes: list[str]) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    found = [{c["name"]: c["probability"] for c in p["classes"]} for p in answer.json()["predictions"]]
    return np.array([[row[name] for name in classes] for row in found])


def test_the_answers_are_the_classifiers(client: TestClient, classifier: FewShotClassifier) -> None:
    images = [png("red", 1), png("blue", 2), png("green", 3)]
    names = list(COLOURS)
    expected = classifier.predict_proba(images)
    by_form = client.post("/predict", files=files(*images))
    by_json = client.post("/predict", json={"images": [base64_of(image) for image in images]})
    assert np.abs(rows(by_form, names) - expected).max() < 1e-5
    assert np.abs(rows(by_json, names) - expected).max() < 1e-5
    first = by_form.json()["predictions"][0]
    assert first["image"] == "0.png"
    assert by_json.json()["predictions"][0]["image"] is None
    shares = [c["probability"] for c in first["classes"]]
    assert shares == sorted(shares, reverse=True)


def test_known_and_new_names_compete(client: TestClient, classifier: FewShotClassifier) -> None:
    names = ["tram", "red", "zebra, striped"]
    answer = client.post("/predict", files=files(png()), data={"classes": names, "top": "2"})
    (found,) = answer.json()["predictions"]
    assert len(found["classes"]) == 2
    whole = client.post("/predict", json={"images": [base64_of(png())], "classes": names})
    assert np.abs(rows(whole, names) - classifier.predict_proba(png(), names)).max() < 1e-5
    kinds = {c["name"]: c["kind"] for c in whole.json()["predictions"][0]["classes"]}
    assert kinds == {"tram": "new", "red": "trained", "zebra, striped": "new"}
    assert client.get("/classes").json()["added"] == []  # nobody else sees them


def test_added_classes_stay(client: TestClient, classifier: FewShotClassifier) -> None:
    assert client.get("/classes").json() == {
        "trained": ["blue", "green", "red"], "added": [], "takes_new": True, "method": "mmrl",
        "backbone": classifier.adapter_.clip.name,
    }  # fmt: skip
    assert client.post("/classes", json={"classes": ["tram", "Red"]}).json()["added"] == ["tram"]
    assert client.post("/classes", json={"classes": ["TRAM"]}).json()["added"] == ["tram"]
    answer = client.post("/predict", files=files(png()))
    kinds = {c["name"]: c["kind"] for c in answer.json()["predictions"][0]["classes"]}
    assert kinds == {"blue": "trained", "green": "trained", "red": "trained", "tram": "added"}


def test_classes_are_encoded_once(
    client: TestClient, classifier: FewShotClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    inner = classifier.adapter_.method.encode_classes

    def count(prompts: Any) -> Any:
        encoded.append(1)
        return inner(prompts)

    monkeypatch.setattr(classifier.adapter_.method, "encode_classes", count)
    for names in (["red", "tram"], ["blue", "tram"], ["red", "tram"], ["blue", "tram"]):
        assert client.post("/predict", files=files(png()), data={"classes": names}).status_code == 200
    assert len(encoded) == 2


@pytest.mark.parametrize(("method", "settings"), [("coop", {"class_specific": True}), ("linear-probe", {})])
def test_a_method_without_new_classes_says_so(backbone_file: Any, method: str, settings: dict[str, Any]) -> None:
    """Whether it takes any depends on its settings, too: class-specific contexts are those of the trained classes."""
    adapter = fitted(CLIP.from_pretrained(str(backbone_file)), method, epochs=1, **settings).adapter_
    with TestClient(create_app(adapter)) as client:
        assert client.get("/classes").json()["takes_new"] is False
        for answer in (
            client.post("/classes", json={"classes": ["tram"]}),
            client.post("/predict", files=files(png()), data={"classes": ["red", "tram"]}),
        ):
            assert answer.status_code == 422
            assert "knows only the classes that it was trained on" in answer.json()["error"]


def test_health_metrics_and_pages(client: TestClient) -> None:
    client.post("/predict", files=files(png(), png()))
    client.get("/nothing/here")
    assert client.get("/healthz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    samples = {s.name: s for family in text_string_to_metric_families(text) for s in family.samples}
    assert 'fewclip_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'fewclip_requests_total{path="other",status="404"} 1.0' in text
    values = {"images_total": 2, "images_held": 0, "classes": 3, "images_refused_total": 0, "batch_images_sum": 2}
    assert {name: samples[f"fewclip_{name}"].value for name in values} == values
    with TestClient(create_app(client.app.state.server.model.adapter)) as other:  # type: ignore[attr-defined]
        assert "fewclip_images_total 0.0" in other.get("/metrics").text, "an application counts only its own"
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/predict" in client.get("/docs").text


# ---- what is refused


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG that says that it is large, with data for all of it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": (b"", 422),
    "text": (b"not an image at all", 422),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>', 422),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) run\n", 422),
    "pdf": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", 422),
    "html": (b"<!doctype html><img src=x onerror=alert(1)>", 422),
    "zip": (b"PK\x03\x04" + bytes(100), 422),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", 422),
    "cut png": (png()[:200], 422),
    "cut jpeg": (encoded(Image.effect_noise((90, 90), 50), "JPEG")[:900], 422),
    "bomb": (bomb(), 413),
    "many pixels": (encoded(Image.new("RGB", (101, 101))), 413),
    "elongated": (encoded(Image.new("L", (9_999, 1))), 413),
    "many bytes": (bytes(300_001), 413),
}


@pytest.mark.parametrize("way", ["form", "json"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_images(client: TestClient, kind: str, way: str) -> None:
    data, status = HOSTILE[kind]
    if way == "form":
        answer = client.post("/predict", files=files(png(), data))
    else:
        answer = client.post("/predict", json={"images": [base64_of(png()), base64_of(data)]})
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert [bad["index"] for bad in problem["images"]] == [1]
    assert problem["error"] == problem["images"][0]["error"]
    assert " at 0x" not in problem["error"]
    assert client.post("/predict", files=files(png())).status_code == 200


def test_a_polyglot_is_the_image_that_it_is(client: TestClient) -> None:
    assert client.post("/predict", files=files(png() + b"<script>alert(1)</script>PK\x03\x04")).status_code == 200


JSON = {"content-type": "application/json"}
WRONG: dict[str, tuple[dict[str, Any], int]] = {
    "no body": ({}, 415),
    "another type": ({"content": b"<a/>", "headers": {"content-type": "text/xml"}}, 415),
    "no json": ({"content": b"{", "headers": JSON}, 422),
    "not utf-8": ({"content": b'{"images": ["\xff"]}', "headers": JSON}, 422),
    "deep": ({"content": b"[" * 200_000, "headers": JSON}, 422),
    "a list": ({"json": []}, 422),
    "no images": ({"json": {"images": []}}, 422),
    "no base64": ({"json": {"images": ["%%%"]}}, 422),
    "a number": ({"json": {"images": [7]}}, 422),
    "top 0": ({"json": {"images": [""], "top": 0}}, 422),
    "top as text": ({"json": {"images": [""], "top": "all"}}, 422),
    "a huge top": ({"content": b'{"images": [""], "top": ' + b"9" * 9000 + b"}", "headers": JSON}, 422),
    "an unknown key": ({"json": {"images": [""], "url": "file:///etc/passwd"}}, 422),
    "no classes": ({"json": {"images": [base64_of(png())], "classes": []}}, 422),
    "an empty class": ({"json": {"images": [base64_of(png())], "classes": [" "]}}, 422),
    "a control character": ({"json": {"images": [base64_of(png())], "classes": ["a\x00b"]}}, 422),
    "a surrogate": ({"content": json.dumps({"images": [base64_of(png())], "classes": ["\ud800"]}), "headers": JSON}, 422),
    "a long class": ({"json": {"images": [base64_of(png())], "classes": ["x" * 301]}}, 422),
    "one class twice": ({"json": {"images": [base64_of(png())], "classes": ["cat", "Cat"]}}, 422),
    "six new classes": ({"json": {"images": [base64_of(png())], "classes": [f"c{n}" for n in range(6)]}}, 422),
    "five images": ({"json": {"images": [base64_of(png())] * 5}}, 413),
    "huge base64": ({"json": {"images": ["A" * 999_000]}}, 413),
    "a huge body": ({"json": {"images": ["A" * 1_100_000]}}, 413),
    "five files": ({"files": files(*[png()] * 5)}, 400),
    "a field too many": ({"files": files(png()), "data": {"url": "x"}}, 422),
    "images as text": ({"files": {"x": b""}, "data": {"images": "x"}}, 422),
    "top as words": ({"files": files(png()), "data": {"top": "٣"}}, 422),
    "classes as a file": ({"files": [*files(png()), ("classes", ("c.txt", b"cat"))]}, 422),
    "a form without bounds": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
    "a broken form": ({"content": b"--b\r\nX", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_requests(client: TestClient, kind: str) -> None:
    request, status = WRONG[kind]
    answer = client.post("/predict", **request)
    assert answer.status_code == status, answer.text
    assert len(answer.json()["error"]) < 400
    assert client.post("/predict", files=files(png())).status_code == 200


def test_wrong_classes(client: TestClient) -> None:
    for names in ([], [""], ["x" * 301], ["a\nb"], [1], [f"c{n}" for n in range(6)], ["one", "ONE"]):
        assert client.post("/classes", json={"classes": names}).status_code == 422, names
    assert client.post("/classes", json={"classes": ["a", "b", "c", "d", "e"]}).status_code == 200
    full = client.post("/classes", json={"classes": ["f", "g", "h"]})
    assert full.status_code == 422
    assert "are allowed" in full.json()["error"]
    assert client.post("/classes", data={"classes": "tram"}).status_code == 415  # so that no other site's form can


def test_the_token(classifier: FewShotClassifier) -> None:
    with TestClient(create_app(classifier.adapter_, token=SECRET)) as client:
        assert client.get("/nothing").status_code == 404
        for path in ("/", "/page.css", "/page.js", "/docs", "/healthz", "/openapi.json"):
            assert client.get(path).status_code == 200
        for header in ("", "Bearer", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET, "Bearer \u00fc"):
            for method, path in (("POST", "/predict"), ("GET", "/classes"), ("POST", "/classes"), ("GET", "/metrics")):
                answer = client.request(method, path, headers={b"authorization": header.encode()})
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/classes", headers={"authorization": f"Bearer {SECRET}"}).status_code == 200
        document = client.get("/openapi.json").json()
        assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                assert operation.get("security") == (None if path == "/healthz" else [{"token": []}]), path
    with TestClient(create_app(classifier.adapter_)) as client:
        assert "security" not in client.get("/openapi.json").json()["paths"]["/predict"]["post"]


# ---- many at one time


def test_many_clients_lose_nothing(classifier: FewShotClassifier) -> None:
    """Every answer is that of its own image and its own candidates."""
    images = [encoded(picture(list(COLOURS.values())[n % 3], n)) for n in range(24)]
    questions: list[list[str] | None] = [None, ["red", "tram"], ["zebra", "blue", "green"]]
    expected = [[classifier.predict_proba(image, q)[0] for q in questions] for image in images]
    app = create_app(classifier.adapter_, batching=Batching(batch=8))

    def ask(client: TestClient, number: int) -> float:
        image, q = number % len(images), (number // 5) % 3
        data = {"images": [base64_of(images[image])], "top": 10}
        answer = client.post("/predict", json=data if questions[q] is None else data | {"classes": questions[q]})
        found = rows(answer, questions[q] or list(COLOURS))[0]
        return float(np.abs(found - expected[image][q]).max())

    with TestClient(app) as client, ThreadPoolExecutor(16) as pool:
        assert max(pool.map(partial(ask, client), range(160))) < 1e-5
        counted = app.state.server.metrics.registry
    assert counted.get_sample_value("fewclip_images_total") == 160
    assert app.state.server.batcher.held == 0


def test_a_full_queue_says_come_back(classifier: FewShotClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    inner = classifier.adapter_.method.scores

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return inner(*arguments)

    monkeypatch.setattr(classifier.adapter_.method, "scores", slow)
    app = create_app(classifier.adapter_, limits=Limits(queue=2, max_images=2))
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(client.post, "/predict", files=files(png(), png()))
        assert begun.wait(20)
        refused = client.post("/predict", files=files(png()))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        go_on.set()
        assert waiting.result().status_code == 200
        assert client.post("/predict", files=files(png())).status_code == 200


def test_too_many_requests_say_come_back(classifier: FewShotClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    inner = classifier.adapter_.method.scores

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return inner(*arguments)

    monkeypatch.setattr(classifier.adapter_.method, "scores", slow)
    with (
        TestClient(create_app(classifier.adapter_, limits=Limits(max_requests=1))) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = pool.submit(client.post, "/predict", files=files(png()))
        assert begun.wait(20)
        assert client.post("/predict", files=files(png())).status_code == 503
        assert client.get("/healthz").status_code == 200
        go_on.set()
        assert waiting.result().status_code == 200


def test_a_bug_is_one_answer(classifier: FewShotClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(classifier.adapter_), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(classifier.adapter_.method, "scores", lambda *a: 1 / 0)
            answer = client.post("/predict", files=files(png()))
            assert answer.status_code == 500
            assert "division" not in answer.text
        assert client.post("/predict", files=files(png())).status_code == 200
