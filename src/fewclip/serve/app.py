"""The application: what it answers on which path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from fewclip.adapters.adapter import Adapter
from fewclip.errors import FewclipError
from fewclip.serve import requests as r
from fewclip.serve.guard import Guard, Token
from fewclip.serve.limits import Limits
from fewclip.serve.metrics import Metrics
from fewclip.serve.model import Model
from fewclip.serve.page import FILES, HERE, docs
from fewclip.serve.server import Batching, Server
from fewclip.version import __version__


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": r.Problem} for status in statuses}


def body(models: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """OpenAPI's description of a request's body, by content type: the routes read their bodies themselves, within the limits."""
    content = {kind: {"schema": model.model_json_schema()} for kind, model in models.items()}
    return {"requestBody": {"required": True, "content": content}}


def create_app(
    adapter: Adapter,
    *,
    limits: Limits | None = None,
    batching: Batching | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """An application that answers for an adapter. Its model thread starts and stops with the application.

    Args:
        adapter: what predicts. Classes that clients add are added to it.
        limits: what one request, and all of them together, may use.
        batching: how concurrent images share runs of the model.
        token: a bearer token that clients must send; None: they need none.
        hosts: names that the server answers to (`Host`); None: any.
    """
    limits, batching = limits or Limits(), batching or Batching()
    model, metrics = Model(adapter), Metrics()
    server = Server(model, limits, batching, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, server.stop)

    app = FastAPI(
        title="fewclip",
        version=__version__,
        summary="Predicts the classes of images.",
        description="An adapted CLIP: it knows the classes it was trained on, and others from their names.",
        docs_url=None,  # FastAPI's own pages come from another server
        redoc_url=None,
        redirect_slashes=False,  # a redirect names the server as this process sees it, not as the client does
        lifespan=lifespan,
    )
    app.state.server = server
    app.add_middleware(Guard, limits=limits, metrics=metrics, hosts=hosts)
    secret = [] if token is None else [Depends(Token(token))]

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        problem = {"error": str(error.detail), "images": getattr(error, "images", [])}
        return JSONResponse(problem, error.status_code, error.headers)

    @app.exception_handler(FewclipError)
    async def mistake(request: Request, error: FewclipError) -> JSONResponse:
        return JSONResponse({"error": str(error), "images": []}, 422)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The server failed: see its log.", "images": []}, 500)

    @app.post(
        "/predict",
        dependencies=secret,
        response_model=r.Predictions,
        responses=problems(400, 401, 403, 408, 413, 415, 422, 503),
        openapi_extra=body({"multipart/form-data": r.PredictForm, "application/json": r.PredictJSON}),
    )
    async def predict(request: Request) -> Any:
        """Predict the classes of images. If one of them can't be read or is too large, the whole request is refused with the reason."""
        started = time.monotonic()
        try:
            return await server.predict(await r.read_predict(request, limits))
        finally:
            metrics.request_seconds.observe(time.monotonic() - started)

    @app.get("/classes", dependencies=secret, response_model=r.Classes, responses=problems(401, 403))
    async def classes() -> Any:
        """The known classes: those trained on, then those added."""
        return server.classes()

    @app.post(
        "/classes",
        dependencies=secret,
        response_model=r.Classes,
        responses=problems(400, 401, 403, 408, 413, 415, 422, 503),
        openapi_extra=body({"application/json": r.ClassesJSON}),
    )
    async def add_classes(request: Request) -> Any:
        """Add classes by name, for every client, until the server stops. Names that are already known are ignored."""
        return await server.add((await r.read_json(request, r.ClassesJSON)).classes)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server is running."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=secret, response_class=PlainTextResponse, responses=problems(401, 403))
    async def show_metrics() -> Any:
        """Counters in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(docs(app.openapi()))

    for path, (name, media_type) in FILES.items():
        page = Response(
            (HERE / name).read_bytes(), media_type=media_type
        )  # itself an application, which always answers this
        app.router.routes.append(Route(path, page, methods=["GET"], include_in_schema=False))
    return app
