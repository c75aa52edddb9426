"""The HTTP interface: OpenAI's images endpoint, a PNG endpoint, health and Prometheus metrics.

    POST /v1/images/generations   as OpenAI's, with images as base64, and t2i's sampling options as further fields
    POST /generate                the same request, for one image; the response is the PNG file
    GET  /v1/models               the served pipeline
    GET  /health                  200
    GET  /metrics                 Prometheus text

Errors have OpenAI's form, {"error": {"message", "type", "code"}}: 400 for a bad request, 404 for another model, 413 for
a body that is too long, 429 if too many requests wait, 500 for a fault of the server, and 504 after the timeout.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ConfigDict
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2i.checks import check_options, check_seeds, check_text, check_whole
from t2i.pipelines.commands.common import record
from t2i.pipelines.commands.outputs import Output, encode
from t2i.pipelines.commands.tasks import finite_images
from t2i.pipelines.reranking import LIKELIHOOD
from t2i.pipelines.sampling_options import SAMPLING_OPTIONS, SamplingOptions
from t2i.pipelines.serving.batcher import Batcher, Job, QueueFull

logger = logging.getLogger(__name__)
MAX_BODY = 64 * 1024  # bytes of a request
MAX_PROMPT = 4_000  # characters
MAX_PIXELS = 2**20  # of an image
MAX_STEPS = 1_000
MAX_CANDIDATES = 64  # images that are generated for a request
SIZES = (1, 2, 4, 8, 16, 32, 64)  # buckets of the histogram of batches


@dataclass(frozen=True, kw_only=True)
class ImageRequest(SamplingOptions):
    """A request for images: OpenAI's fields, and the sampling options of the pipeline."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    """Name of the pipeline; only the one that is served."""
    n: int = 1
    """Number of images."""
    size: str | None = None
    """Width and height in pixels, as in 128x128; by default, and for "auto", the pipeline's own."""
    seed: int | None = None
    """Seed of the first image; image i has `seed` + i. By default random; the response has it."""
    negative_prompt: str | None = None
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    user: str | None = None
    """OpenAI's identifier of the end user; not used."""

    def options(self) -> dict[str, Any]:
        """The arguments of the pipeline's call. Raises ValueError for values out of range."""
        values = {name: getattr(self, name) for name in (*SAMPLING_OPTIONS, "negative_prompt")}
        values = {name: value for name, value in values.items() if value is not None}
        check_options(values)
        if self.size not in (None, "auto"):
            if not (match := re.fullmatch(r"(\d{1,6})x(\d{1,6})", self.size)):
                raise ValueError(f"size must be as in 128x128, or auto, not {self.size!r}")
            values |= {"width": int(match[1]), "height": int(match[2])}
            for name in ("width", "height"):
                check_whole(name, values[name])
        self._check_work(values)
        return values

    def _check_work(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError for options that take the pipeline, which serves all, too long, or read other files."""
        if values.get("width", 1) * values.get("height", 1) > MAX_PIXELS:
            raise ValueError(f"size must have at most {MAX_PIXELS:,} pixels")
        if self.n * values.get("num_candidates", 1) > MAX_CANDIDATES:
            raise ValueError(f"n times num_candidates must be at most {MAX_CANDIDATES}")
        for name in ("num_inference_steps", "num_prior_steps"):
            check_whole(name, values.get(name, 1), most=MAX_STEPS)
        if values.get("reranker", LIKELIHOOD) != LIKELIHOOD:
            raise ValueError(f"reranker must be {LIKELIHOOD} here: a request opens no models")


class Server:
    """What the endpoints share: the pipeline's batcher, and the metrics."""

    def __init__(
        self, pipe, name: str, max_batch_size: int, max_waiting: int, timeout: float, loading: Mapping[str, Any]
    ):
        self.name, self.timeout, self.max_batch_size, self.loading = name, timeout, max_batch_size, loading
        self.takes = set(inspect.signature(pipe.__call__).parameters)
        self.registry = CollectorRegistry()
        self.requests = Counter("t2i_requests", "Requests for images by status.", ["status"], registry=self.registry)
        self.in_progress = Gauge("t2i_requests_in_progress", "Requests without an answer.", registry=self.registry)
        self.images = Counter("t2i_images", "Images generated.", registry=self.registry)
        self.seconds = Histogram("t2i_batch_seconds", "Time to generate a batch.", registry=self.registry)
        self.sizes = Histogram("t2i_batch_images", "Images per batch.", registry=self.registry, buckets=SIZES)
        self.batcher = Batcher(partial(finite_images, pipe), max_batch_size, max_waiting, self._count)
        waiting = Gauge("t2i_waiting_requests", "Requests that wait.", registry=self.registry)
        waiting.set_function(lambda: self.batcher.waiting)

    def _count(self, images: int, seconds: float) -> None:
        self.images.inc(images)
        self.seconds.observe(seconds)
        self.sizes.observe(images)

    def job(self, request: ImageRequest) -> Job:
        """The job of a request. Raises HTTPException for a bad one."""
        if request.model not in (None, self.name):
            raise HTTPException(404, f"there is no model {request.model!r} here: the served one is {self.name!r}")
        try:
            check_text("prompt", request.prompt)
            if not request.prompt.strip() or len(request.prompt) > MAX_PROMPT:
                raise ValueError(f"prompt must have from 1 to {MAX_PROMPT:,} characters")
            check_whole("n", request.n, most=self.max_batch_size)
            seed = secrets.randbelow(2**31) if request.seed is None else request.seed
            check_seeds("seed", seed, request.n)
            options = request.options()
            if unknown := [name for name in options if name not in self.takes]:
                raise ValueError(f"{self.name} takes no {unknown[0]}")
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return Job(request.prompt, tuple(range(seed, seed + request.n)), options)

    async def finished(self, job: Job) -> list[Image.Image]:
        """The images of a job. Raises HTTPException if it is not taken, too late, or invalid for the pipeline."""
        try:
            self.batcher.submit(job)
        except QueueFull as error:
            raise HTTPException(429, "too many requests wait: try again later", {"Retry-After": "1"}) from error
        images = asyncio.wrap_future(job.images)
        try:
            done, _ = await asyncio.wait([images], timeout=self.timeout)
            if not done:
                raise HTTPException(504, f"no image within {self.timeout:g} seconds: try again later")
            return images.result()
        except ValueError as error:
            logger.warning("a request was refused by the pipeline: %s", error)
            raise HTTPException(400, str(error)) from error
        finally:
            images.cancel()  # what has not begun is not generated for a client that no longer waits

    def png(self, image: Image.Image, request: ImageRequest, job: Job, seed: int) -> bytes:
        """The file, with what it takes to generate the image again."""
        chunks = record(request, [request.prompt], seed, self.name)
        chunks["settings"] = json.dumps({**self.loading, **job.options})
        return encode(Output(image, Path("image.png"), chunks))


def make_app(
    pipe,
    name: str,
    max_batch_size: int = 8,
    max_waiting: int = 64,
    timeout: float = 120.0,
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> FastAPI:
    """The application that serves a pipeline from prompts to images under a name.

    Args:
        max_batch_size: maximum number of images of a batch, and of a request.
        max_waiting: maximum number of waiting requests.
        timeout: in seconds, of a request.
        loading: options with which the pipeline was opened, for the record of each image.
    """
    server = Server(pipe, name, max_batch_size, max_waiting, timeout, loading)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield  # until all connections are closed, and so all requests answered
        await asyncio.to_thread(server.batcher.close, 1.0)

    # The interactive documentation of FastAPI is left out: its page loads scripts from another host.
    app = FastAPI(title=f"t2i: {name}", lifespan=lifespan, docs_url=None, redoc_url=None)
    _count_and_name_errors(app, server)

    @app.post("/v1/images/generations")
    async def generations(request: ImageRequest) -> dict:
        job = server.job(request)
        images = await server.finished(job)
        files = [server.png(image, request, job, seed) for image, seed in zip(images, job.seeds, strict=True)]
        data = [{"b64_json": base64.b64encode(f).decode(), "seed": s} for f, s in zip(files, job.seeds, strict=True)]
        return {"created": int(time.time()), "data": data, "output_format": "png"}

    @app.post("/generate", response_class=Response)
    async def generate(request: ImageRequest) -> Response:
        if request.n != 1:
            raise HTTPException(400, "n must be 1 for /generate: POST to /v1/images/generations for more")
        job = server.job(request)
        (image,) = await server.finished(job)
        return Response(server.png(image, request, job, job.seeds[0]), media_type="image/png")

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "t2i"}]}

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "waiting": server.batcher.waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(server.registry), media_type="text/plain; version=0.0.4")

    return app


def _count_and_name_errors(app: FastAPI, server: Server) -> None:
    """Count the requests for images by status, and give all errors OpenAI's form."""

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method != "POST":
            return await call_next(request)
        with server.in_progress.track_inprogress():
            try:
                response = await call_next(request)
            except Exception as error:
                logger.exception("a request failed")
                response = _error(500, f"the server failed: {type(error).__name__}")
        server.requests.labels(str(response.status_code)).inc()
        return response

    app.add_middleware(BodyLimit)  # outermost

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"{where}: {first['msg']}" if where else first["msg"])


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 429 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)


class BodyLimit:
    """ASGI middleware: 413 for a body of more than MAX_BODY bytes, of which no more are read."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client is gone
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > MAX_BODY:
                await _error(413, f"a request has at most {MAX_BODY:,} bytes")(scope, receive, send)
                return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(given, None) or await receive()

        await self.app(scope, again, send)
