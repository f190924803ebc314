"""Requests that mean harm (docs/security.md): what test_serve.py and test_serve_page.py don't show."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")
from asking import Asker
from fastapi.testclient import TestClient
from measuring import grown_mb
from serving import SECRET, base64_of, fitted, png, served

from fewclip import FewShotClassifier
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.serve.app import create_app
from fewclip.serve.run import local_names


@pytest.fixture(scope="module")
def trained(backbone_file: Path) -> FewShotClassifier:
    return fitted(CLIP.from_pretrained(str(backbone_file)))


@pytest.fixture
def client(trained: FewShotClassifier) -> Iterator[TestClient]:
    fresh = copy(trained)
    fresh.adapter_ = copy(trained.adapter_)
    fresh.adapter_.added_classes = []
    with TestClient(create_app(fresh.adapter_)) as client:
        yield client


@pytest.fixture(scope="module")
def ask(trained: FewShotClassifier) -> Iterator[Asker]:
    with Asker(create_app(trained.adapter_)) as asker:
        yield asker


FILE = [("images", ("a.png", png()))]


# ---- other sites


def test_other_names_of_a_local_server(trained: FewShotClassifier) -> None:
    """A site can let its own name point to 127.0.0.1 and then ask in the visitor's browser."""
    with TestClient(create_app(trained.adapter_, hosts={"localhost", "127.0.0.1", "::1", "My.Name"})) as client:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "my.name", "MY.NAME:80"):
            assert client.get("/classes", headers={"host": host}).status_code == 200, host
        for host in (
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "[::2]",
        ):
            for path in ("/classes", "/", "/healthz"):
                assert client.get(path, headers={"host": host}).status_code == 403, host


def test_which_names_the_command_allows(
    trained: FewShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone_file: Path
) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr("fewclip.serve.run.run", lambda app, bound, **_: bound.close())

    def remember(classifier: FewShotClassifier, **options: Any) -> None:
        found.update(options)

    monkeypatch.setattr("fewclip.serve.app.create_app", remember)
    trained.save(tmp_path / "a")
    start = ["serve", str(tmp_path / "a"), "--port", "0"]
    assert main([*start, "--allow-host", "proxy.example"]) == 0
    assert found["hosts"] == {"localhost", "127.0.0.1", "::1", "proxy.example"}
    assert main([*start, "--host", "0.0.0.0"]) == 0
    assert found["hosts"] is None
    monkeypatch.setenv("FEWCLIP_TOKEN", SECRET)
    assert main(start) == 0
    assert found["hosts"] is None
    with socket.socket() as bound:
        bound.bind(("127.0.0.2", 0))
        assert "127.0.0.2" in local_names("127.0.0.2", bound)


def test_pages_of_other_sites(client: TestClient) -> None:
    """They may send nothing, and read nothing: no answer allows another origin."""
    other = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    assert client.post("/predict", files=FILE, headers=other).status_code == 403
    assert client.post("/classes", json={"classes": ["tram"]}, headers=other).status_code == 403
    assert client.get("/classes").json()["added"] == []
    for site in ("same-origin", "none"):
        assert client.post("/predict", files=FILE, headers={"sec-fetch-site": site}).status_code == 200
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (client.get("/classes", headers=other), client.options("/classes", headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "frame-ancestors 'none'" in client.get("/").headers["content-security-policy"]


# ---- bodies


def test_a_body_of_many_small_values(ask: Asker) -> None:
    """Parsed, 39 MB of them would take gigabytes and minutes."""
    body = b'{"images": [' + b"[]," * 13_000_000 + b"[]]}"

    def send() -> None:
        started = time.monotonic()
        status, said = ask("POST", "/predict", {"content-type": "application/json"}, body)
        assert (status, b"100,000 values" in said) == (422, True)
        assert time.monotonic() - started < 10

    assert grown_mb(send, ValueError) < 200


def test_many_wrong_values_are_one_mistake(ask: Asker) -> None:
    body = b'{"images": [' + b"[]," * 40_000 + b"[]]}"
    status, said = ask("POST", "/predict", {"content-type": "application/json"}, body)
    assert status == 422
    assert b"images.0 is wrong" in said


@pytest.mark.parametrize("key", ["\\ud800", "x" * 100_000, "\\u001b[2J"])
def test_strange_keys(ask: Asker, key: str) -> None:
    body = b'{"images": [""], "%s": 1}' % key.encode()
    status, said = ask("POST", "/predict", {"content-type": "application/json"}, body)
    assert status == 422
    assert len(said) < 400
    assert b"\x1b" not in said


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "\0", "utf-16", "zlib", "x" * 999])
def test_forms_in_strange_charsets(ask: Asker, charset: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="\xff\xfe.png"\r\n\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    status, _ = ask("POST", "/predict", {"content-type": kind}, part + png() + b"\r\n--x--\r\n")
    assert status in (200, 400, 422)


@pytest.mark.parametrize("top", ["0" * 8 + "1", "1" * 1200, "000001" + "9" * 900, "1e3", "²", "-1"])
def test_odd_numbers_in_a_form(client: TestClient, top: str) -> None:
    assert client.post("/predict", files=FILE, data={"top": top}).status_code == 422
    assert client.post("/predict", files=FILE, data={"top": "100000"}).status_code == 200


def test_a_length_in_other_digits(ask: Asker) -> None:
    for length in ("²", "٣", "-1", "1e9", ""):
        status, _ = ask("POST", "/predict", {"content-length": length if length.isascii() else "\u00b2"}, b"")
        assert status == 415


@pytest.mark.parametrize("parts", [3000, 300])
def test_too_many_parts(ask: Asker, parts: int) -> None:
    field = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\na\r\n'
    body = (field % (b"images", b'; filename="a"')) * parts + b"--x--\r\n"
    status, _ = ask("POST", "/predict", {"content-type": "multipart/form-data; boundary=x"}, body)
    assert status == 400
    body = (field % (b"classes", b"")) * parts + b"--x--\r\n"
    status, _ = ask("POST", "/predict", {"content-type": "multipart/form-data; boundary=x"}, body)
    assert status == (400 if parts == 3000 else 422)


def test_ten_megabytes_of_a_name(ask: Asker) -> None:
    kind = {"content-type": "application/json"}
    for path, body in (
        ("/classes", b'{"classes": ["%s"]}' % (b"x" * 10_000_000)),
        ("/predict", b'{"images": [""], "classes": ["%s"]}' % (b"x" * 10_000_000)),
    ):
        status, said = ask("POST", path, kind, body)
        assert (status, len(said) < 400) == (422, True)


def test_names_of_files_are_sent_back_as_text(client: TestClient) -> None:
    name = "<img src=x onerror=alert(1)>" + "x" * 500
    answer = client.post("/predict", files=[("images", (name, png()))])
    assert answer.json()["predictions"][0]["image"] == name[:200]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---- connections


def test_more_connections_than_allowed(trained: FewShotClassifier) -> None:
    with served(create_app(trained.adapter_), most=3) as address:
        host, port = address.removeprefix("http://").split(":")
        lines = [socket.create_connection((host, int(port)), timeout=10) for _ in range(6)]
        try:
            closed = 0
            for line in lines:
                line.settimeout(1)
                with suppress(TimeoutError):
                    closed += line.recv(1) == b""
            assert closed == 3
        finally:
            for line in lines:
                line.close()
        time.sleep(0.2)
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200" in line.recv(100)


@pytest.mark.parametrize(
    "given", ["", "Bearer", f"Basic {SECRET}", f"Bearer {SECRET}x", f"bearer{SECRET}", "Bearer \u00e9"]
)
def test_wrong_tokens(trained: FewShotClassifier, given: str) -> None:
    with TestClient(create_app(trained.adapter_, token=SECRET)) as client:
        headers = {"authorization": given.encode("latin-1")}
        assert client.get("/classes", headers=headers).status_code == 401  # type: ignore[arg-type]
        body = {"images": [base64_of(png())]}
        assert client.post("/predict", json=body, headers=headers).status_code == 401  # type: ignore[arg-type]
