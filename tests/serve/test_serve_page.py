"""The server as a process, its page in headless Chromium, slow clients, and its OpenAPI document by schemathesis."""

from __future__ import annotations

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
        create_app(classifier.adapter_, limits=Limits(max_body=400_000, read_seconds=1.5)), head_seconds=1.5
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
    assert tab.inner_text("#name-error") == "Already there: RED."
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
    with socket.create_connection((host, int(port)), timeout=15) as line:
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


def test_slow_clients_are_hung_up_on(address: str) -> None:
    started = time.monotonic()
    assert talk(address) == b""  # says nothing
    assert talk(address, b"POST /pre") == b""  # never ends the head
    assert b"408" in talk(address, HEAD + b"Content-Length: 100\r\n\r\n{").split(b"\r\n")[0]
    assert time.monotonic() - started < 14
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert answer.status == 200


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
            ([str(adapter), "--max-images", "0"], "a limit is more than 0"),
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
