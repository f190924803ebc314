"""The server as a process, its page in headless Chromium, slow clients, and its OpenAPI document by schemathesis."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")
from browser import CONTRASTS
from pictures import COLOURS, picture
from serving import SECRET, base64_of, fitted, png, served

from fewclip import FewShotClassifier
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.serve.app import create_app
from fewclip.serve.limits import Limits


@pytest.fixture(scope="module")
def classifier(backbone_file: Path) -> FewShotClassifier:
    return fitted(CLIP.from_pretrained(str(backbone_file)))


@pytest.fixture(scope="module")
def address(classifier: FewShotClassifier) -> Iterator[str]:
    with served(
        create_app(classifier.adapter_, limits=Limits(max_body=400_000, read_seconds=1.5)), seconds=1.5
    ) as address:
        yield address


# ---- the page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_upload_add_and_rank(browser: Any, address: str, tmp_path: Path, width: int, scheme: str) -> None:
    picture(COLOURS["red"], 5).save(tmp_path / "red one.png")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.locator("#chips li").nth(2).wait_for()
    assert tab.locator("#chips li.trained").all_inner_texts() == ["blue", "green", "red"]
    tab.set_input_files("#file", tmp_path / "red one.png")
    tab.locator("#answer li").nth(2).wait_for()
    names = tab.locator("#answer .name").all_inner_texts()
    assert sorted(names) == ["blue", "green", "red"]
    shares = [float(text.rstrip(" %")) for text in tab.locator("#answer .share").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 0.3
    tab.fill("#names", "tram, RED, <img src=x onerror=alert(1)>")
    tab.click("#add button")
    tab.locator("#answer li").nth(4).wait_for()
    assert set(tab.locator("#answer .name").all_inner_texts()) == {*COLOURS, "tram", "<img src=x onerror=alert(1)>"}
    assert tab.locator("#answer .kind", has_text="new").count() == 2
    assert tab.inner_text("#name-error") == "Already listed: RED."
    assert tab.locator("#chips li.new").count() == 2
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    lowest, text = tab.evaluate(CONTRASTS)
    assert lowest >= 4.5, text  # WCAG AA
    tab.get_by_role("button", name="Remove tram").click()
    tab.locator("#answer li").nth(4).wait_for(state="detached")
    tab.set_input_files("#file", {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"})
    tab.locator("#error:not(:empty)").wait_for()
    assert "can't be read" in tab.inner_text("#error")
    assert [line for line in said if "422" not in line] == []
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    context.close()


def test_the_page_asks_for_the_token(browser: Any, classifier: FewShotClassifier) -> None:
    with served(create_app(classifier.adapter_, token=SECRET)) as address:
        tab = browser.new_page()
        tab.goto(address)
        tab.locator("#token").wait_for()
        tab.fill("#token", SECRET)
        tab.click("#token-form button")
        tab.locator("#chips li").nth(2).wait_for()
        assert tab.locator("#token-form").is_hidden()
        tab.close()


# ---- slow and rude clients


def talk(address: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the server says to these bytes until it hangs up."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(pause)
        said = b""
        try:
            while chunk := line.recv(65536):
                said += chunk
        except ConnectionResetError:
            pass
        return said


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def drip(address: str, first: bytes, then: bytes) -> tuple[bytes, float]:
    """What the server says to a client that sends `first`, then a byte every 0.2 s, and after how long it hangs up."""
    host, port = address.removeprefix("http://").split(":")
    started, said = time.monotonic(), b""
    with socket.create_connection((host, int(port)), timeout=0.2) as line:
        line.sendall(first)
        for byte in then:
            try:
                chunk = line.recv(65536)
                said += chunk
                if not chunk:
                    break
                time.sleep(0.2)
            except TimeoutError:
                pass
            except OSError:
                break
            with suppress(OSError):
                line.sendall(bytes([byte]))
    return said, time.monotonic() - started


SLOW = {
    "says nothing": (b"", b"", b""),
    "half a head": (b"POST /pre", b"", b""),
    "a head byte by byte": (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b""),
    "a second head byte by byte": (HEALTH, b"GET /healthz HTTP/1.1\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b"200"),
    "half a body": (HEAD + b"Content-Length: 100\r\n\r\n{", b"", b"408"),
    "a body byte by byte": (HEAD + b"Content-Length: 100\r\n\r\n", b"[" * 60, b"408"),
    "a body that nobody reads": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", b"[" * 60, b"200"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SLOW)
def test_slow_clients_are_hung_up_on(address: str, kind: str) -> None:
    """After 1.5 s here; within a body of a request a byte on time does not earn another 1.5 s."""
    first, then, status = SLOW[kind]
    if then:
        said, seconds = drip(address, first, then)
    else:
        started = time.monotonic()
        said = talk(address, first)
        seconds = time.monotonic() - started
    assert status in said.split(b"\r\n")[0]
    assert (said == b"") == (status == b"")
    assert 1.2 < seconds < 10
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert answer.status == 200


def test_a_client_that_reads_no_answer_is_cut(address: str) -> None:
    """It asks and asks on one connection; uvicorn alone would wait until it reads."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        started = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - started < 12:
                with suppress(TimeoutError):
                    line.sendall(100 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 1.2 < time.monotonic() - started < 11
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("last", ["", "Connection: close\r\n"])
def test_an_answer_that_is_not_read_is_dropped(last: str) -> None:
    """Larger than the system's buffers; with `Connection: close` the server has closed its side, and still has it to send."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
        await send({"type": "http.response.body", "body": bytes(30_000_000)})

    with served(app, seconds=0.8) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{last}\r\n".encode())
            time.sleep(2)
            received = 0
            with suppress(ConnectionResetError):
                while chunk := line.recv(1 << 20):
                    received += len(chunk)
            assert 0 < received < 30_000_000


def test_work_that_takes_long_is_not_cut(classifier: FewShotClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks are for clients: a slow model, and a pause between two requests, are no reason to hang up."""
    inner = classifier.adapter_.method.scores

    def slow(*given: Any) -> Any:
        time.sleep(1.5)
        return inner(*given)

    monkeypatch.setattr(classifier.adapter_.method, "scores", slow)
    body = json.dumps({"images": [base64_of(png())]})
    with served(create_app(classifier.adapter_, limits=Limits(read_seconds=0.8)), seconds=0.8) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        connection.connect()
        line = connection.sock
        for _ in range(2):
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            assert connection.sock is line, "kept open"
            time.sleep(0.4)
        connection.close()


def test_without_a_token_no_body_is_waited_for(classifier: FewShotClassifier) -> None:
    with served(create_app(classifier.adapter_, token=SECRET)) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as line:
            line.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
            assert b"401" in line.recv(100)


def test_rude_clients(address: str) -> None:
    chunk = b"186a0\r\n" + b"A" * 100_000 + b"\r\n"
    for said, status in (
        (talk(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 6 * chunk + b"0\r\n\r\n"), b"413"),
        (talk(address, HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"), b"413"),
        (talk(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), b"400"),
        (talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 70_000, pause=0.1), b"400"),
        (talk(address, b"BREW /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), b"405"),
    ):
        assert status in said.split(b"\r\n")[0], (status, said[:200])
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert answer.status == 200


# ---- the command


@pytest.fixture
def adapter(classifier: FewShotClassifier, tmp_path: Path) -> Path:
    classifier.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def ask(address: str, image: bytes) -> int:
    body = json.dumps({"images": [base64_of(image)]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {SECRET}"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", body, headers), timeout=60) as answer:
        return len(json.load(answer)["predictions"])


def test_the_command_serves_and_stops(adapter: Path, backbone_file: Path) -> None:
    """A signal to stop ends it with status 0, and what was asked before is answered."""
    arguments = [sys.executable, "-m", "fewclip", "serve", str(adapter), "--port", "0", "--device", "cpu"]
    environment = os.environ | {"FEWCLIP_TOKEN": SECRET, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.communicate()[1]
        assert "3 classes" in line
        assert ask(found[0], png()) == 1
        with ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(ask, found[0], png(seed=n)) for n in range(12)]
            waiting[0].result()  # by now all are connected, or will be refused a connection
            process.send_signal(signal.SIGTERM)
            answered = 0
            for future in waiting:
                with suppress(urllib.error.URLError, ConnectionError):  # came too late
                    answered += future.result()
        assert answered >= 1
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Stopped." in out
        assert errors == ""


def test_mistakes(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short").write_text("secret\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, said in (
            (["nothing"], "There is no adapter folder"),
            ([str(adapter), "--token-file", str(tmp_path / "short")], "at least 16"),
            ([str(adapter), "--token-file", str(tmp_path / "none")], "can't be read"),
            ([str(adapter), "--port", str(taken.getsockname()[1])], "choose another --host or --port"),
            ([str(adapter), "--port", "99999"], "choose another --host or --port"),
            ([str(adapter), "--host", "256.0.0.1"], "choose another --host or --port"),
            ([str(adapter), "--max-images", "0"], "max_images is 0, but it must be at least 1"),
            ([str(adapter), "--max-images", "999"], "must fit into the queue"),
            ([str(adapter), "--batch", "0"], "at least 1"),
        ):
            assert main(["serve", *arguments]) == 2
            error = capsys.readouterr().err
            assert said in error, error
            assert error.count("\n") == 1
    monkeypatch.setenv("FEWCLIP_TOKEN", "")
    assert main(["serve", str(adapter)]) == 2
    assert "at least 16" in capsys.readouterr().err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fewclip.cli.serve.find_spec", lambda name: None)
    assert main(["serve", "x"]) == 2
    assert capsys.readouterr().err == "fewclip serve: Serving needs fastapi: pip install 'fewclip[serve]'.\n"


# ---- the OpenAPI document


def test_schemathesis_finds_no_server_error(classifier: FewShotClassifier) -> None:
    """Requests made from the document, right and wrong: none is a server error, and all answers are documented."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    app = create_app(classifier.adapter_, limits=Limits(max_classes=30))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    seen: dict[str, int] = {}
    for operation in schema.get_all_operations():
        case = operation.ok()
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        for mode in modes if case.body else modes[:1]:  # without a body nothing can be wrong
            strategy = case.as_strategy(generation_mode=mode)

            @given(strategy)
            @settings(
                max_examples=15, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def check(one: Any) -> None:
                answer = one.call()
                seen[one.path] = seen.get(one.path, 0) + 1
                one.validate_response(answer, checks=checks)

            check()
    assert set(seen) == {"/predict", "/classes", "/healthz", "/metrics"}
