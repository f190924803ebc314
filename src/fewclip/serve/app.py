"""The application: what is answered on which path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from fewclip.classes import key
from fewclip.classifier import FewShotClassifier
from fewclip.errors import FewclipError, SettingsError
from fewclip.serve import requests as r
from fewclip.serve.batching import Batcher
from fewclip.serve.guard import Guard
from fewclip.serve.limits import Limits, Refused, check_class_names, to_pixels
from fewclip.serve.metrics import CONTENT_TYPE, Metrics
from fewclip.serve.model import Answer, Model
from fewclip.serve.page import docs, static
from fewclip.version import __version__

log = logging.getLogger("fewclip.serve")


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How images that come at one time share runs of the model."""

    batch: int = 32
    """Images in one run of the model at most."""
    wait_ms: float = 4.0
    """How long the model waits for images that are still being decoded."""
    decoders: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.decoders < 1 or not 0 <= self.wait_ms <= 1000:
            raise SettingsError(
                f"batch is {self.batch}, decoders {self.decoders}, wait_ms {self.wait_ms:g}; expected at least 1, at least 1, "
                "and 0 to 1000."
            )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": r.Problem} for status in statuses}


def create_app(
    classifier: FewShotClassifier,
    *,
    limits: Limits | None = None,
    batching: Batching | None = None,
    token: str | None = None,
) -> FastAPI:
    """The application that answers for a classifier. Its model thread starts and stops with the application."""
    limits, batching = limits or Limits(), batching or Batching()
    model, metrics = Model(classifier), Metrics()
    server = Server(model, limits, batching, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, server.stop)

    app = FastAPI(
        title="fewclip",
        version=__version__,
        summary="Names what images show.",
        description="An adapted CLIP: it knows the classes that it was trained on, and others by their name.",
        docs_url=None,  # FastAPI's own pages come from another server
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = server
    app.add_middleware(Guard, limits=limits, metrics=metrics, token=token)
    if token is not None:
        _declare_token(app)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        problem = {"error": str(error.detail), "images": getattr(error, "images", [])}
        return JSONResponse(problem, error.status_code, error.headers)

    @app.exception_handler(FewclipError)
    async def mistake(request: Request, error: FewclipError) -> JSONResponse:
        return JSONResponse({"error": str(error), "images": []}, 422)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The server failed; its log says why.", "images": []}, 500)

    body = {"multipart/form-data": {"schema": r.FORM_SCHEMA}, "application/json": {"schema": _schema(r.PredictJSON)}}

    @app.post(
        "/predict",
        response_model=r.Predictions,
        responses=problems(400, 401, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": {"required": True, "content": body}},
    )
    async def predict(request: Request) -> Any:
        """What one or many images show. One image that can't be read, or is too large, refuses the request with its reason."""
        started = time.monotonic()
        try:
            return await server.predict(await r.read_predict(request, limits))
        finally:
            metrics.request_seconds.observe(time.monotonic() - started)

    @app.get("/classes", response_model=r.Classes, responses=problems(401))
    async def classes() -> Any:
        """The classes that are known, in the order in which they came."""
        return server.classes()

    @app.post(
        "/classes",
        response_model=r.Classes,
        responses=problems(400, 401, 408, 413, 415, 422, 503),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _schema(r.ClassesJSON)}}}
        },
    )
    async def add_classes(request: Request) -> Any:
        """Add classes by name for every client, until the server stops. Names that are known already stay as they are."""
        return await server.add((await r.read_json(request, r.ClassesJSON)).classes)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=problems(401))
    async def show_metrics() -> Any:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(docs(app.openapi()))

    for path, (content, media_type) in static().items():
        app.add_api_route(path, _fixed(content, media_type), include_in_schema=False)
    return app


class Server:
    """The model thread, the threads that decode, and the limits on both."""

    def __init__(self, model: Model, limits: Limits, batching: Batching, metrics: Metrics) -> None:
        self.model, self.limits, self.batching, self.metrics = model, limits, batching, metrics
        self._batcher: Batcher | None = None
        metrics.gauge("fewclip_images_held", "Images that are decoded or wait.", lambda: self.batcher.held)
        metrics.gauge("fewclip_classes", "Classes known.", lambda: len(model.trained) + len(model.added))

    def start(self) -> None:
        b = self.batching
        self._decoders = ThreadPoolExecutor(b.decoders, thread_name_prefix="fewclip-decode")
        self._batcher = Batcher(
            self.model.run, self.metrics, size=b.batch, wait=b.wait_ms / 1000, queue=self.limits.queue
        )

    def stop(self) -> None:
        """Answer what is waiting, then end the threads."""
        self._decoders.shutdown()
        self.batcher.close()

    @property
    def batcher(self) -> Batcher:
        assert self._batcher is not None, "the application has not been started"
        return self._batcher

    async def predict(self, asked: r.Asked) -> dict[str, Any]:
        """Raises: Refused, FewclipError."""
        if asked.classes is not None:
            check_class_names(asked.classes, self.model.trained + self.model.added, self.limits)
        loop = asyncio.get_running_loop()
        with self.batcher.places(len(asked.images)) as places:
            decoded = await asyncio.gather(
                *(
                    loop.run_in_executor(self._decoders, to_pixels, data, self.model.preprocess, self.limits)
                    for _, data in asked.images
                ),
                return_exceptions=True,
            )
            self._check_decoded(asked, decoded)
            waiting = [places.submit(pixels, asked.classes) for pixels in decoded]
            answers = await asyncio.gather(*map(asyncio.wrap_future, waiting))
        return {"predictions": [self._ranked(a, name, asked.top) for a, (name, _) in zip(answers, asked.images, strict=True)]}

    def _check_decoded(self, asked: r.Asked, decoded: Sequence[Any]) -> None:
        bad, status = [], 422
        for place, ((name, _), found) in enumerate(zip(asked.images, decoded, strict=True)):
            if isinstance(found, Refused):
                bad.append({"index": place, "image": name, "error": str(found.detail)})
                status = found.status_code
            elif isinstance(found, BaseException):
                raise found
        if bad:
            self.metrics.refused.add(len(bad))
            raise Refused(status, bad[0]["error"], images=bad)

    def _ranked(self, answer: Answer, name: str | None, top: int) -> dict[str, Any]:
        order = np.argsort(-answer.probabilities, kind="stable")[:top]
        names = [answer.classes[i] for i in order]
        kinds = self.model.kinds(names)
        return {
            "image": name,
            "classes": [
                {"name": n, "probability": float(answer.probabilities[i]), "kind": kinds[n]}
                for n, i in zip(names, order, strict=True)
            ],
        }

    def classes(self) -> dict[str, Any]:
        c = self.model.classifier
        return {
            "trained": self.model.trained,
            "added": self.model.added,
            "takes_new": self.model.takes_new,
            "method": c.method,
            "backbone": c.clip_.name or "unnamed",
        }

    async def add(self, names: Sequence[str]) -> dict[str, Any]:
        """Raises: Refused, FewclipError."""

        def do() -> dict[str, Any]:  # on the model's thread, where classes don't change beside it
            known = self.model.trained + self.model.added
            check_class_names(names, known, self.limits)
            there = {key(name) for name in known}
            new = [name for name in names if key(name) not in there]
            if len(known) + len(new) > self.limits.max_classes:
                raise Refused(422, f"{len(known)} classes are known, and {self.limits.max_classes} are the most.")
            if new:
                self.model.add(new)
                log.info("added %d classes", len(new))
            return self.classes()

        result: dict[str, Any] = await asyncio.wrap_future(self.batcher.call(do))
        return result


def _schema(model: type[r.BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _fixed(content: str, media_type: str) -> Any:
    async def fixed() -> Response:
        return Response(content, media_type=media_type)

    return fixed


def _declare_token(app: FastAPI) -> None:
    """Say in the OpenAPI document that a token is needed."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            if path != "/healthz":
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
