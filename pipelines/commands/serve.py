"""`t2i serve`: generate images for HTTP requests."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from t2i.arguments import parse
from t2i.checks import UsageError, check_options, check_real, check_whole
from t2i.pipelines.commands.common import LoadingOptions


@dataclass(frozen=True)
class Serve(LoadingOptions):
    """Options of `t2i serve`."""

    pipeline: str = "toybox/dalle"
    """Embedded system, folder, or model of the Hub."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is open to other machines, without any authentication."""
    port: int = 8000
    """Port to listen on; 0: any free one."""
    max_batch_size: int = 8
    """Maximum number of images per batch, and per request."""
    max_waiting: int = 64
    """Maximum number of waiting requests; further ones get status 429."""
    timeout: float = 120.0
    """Seconds after which a request gets status 504."""

    def __post_init__(self) -> None:
        check_whole("--port", self.port, least=0, most=65_535)
        check_whole("--max-batch-size", self.max_batch_size)
        check_whole("--max-waiting", self.max_waiting)
        check_real("--timeout", self.timeout, above=True)
        check_options({"lora_scale": self.lora_scale}, flags=True)


def main(args: Sequence[str]) -> None:
    """Serve a pipeline over HTTP: OpenAI's images endpoint, PNG files, health and metrics (docs/serving.md)."""
    options = parse(Serve(), args, prog="t2i serve", description=main.__doc__ or "")
    try:
        import uvicorn

        from t2i.pipelines.serving.app import make_app
    except ModuleNotFoundError as error:
        raise UsageError(f"t2i serve needs {error.name}: pip install -e '.[serve]'") from error
    from t2i.pipelines.loading.auto import open_pipeline

    try:
        listening = socket.create_server((options.host, options.port), backlog=options.max_waiting)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"--host {options.host} --port {options.port}: {reason}; give another port") from error
    pipe = open_pipeline(options.pipeline, options.device, options.lora, options.lora_scale, options.dtype)
    pipe.set_progress_bar_config(disable=True)
    app = make_app(pipe, options.pipeline, options.max_batch_size, options.max_waiting, options.timeout)
    host, port = listening.getsockname()[:2]
    print(f"{options.pipeline} at http://{host}:{port}/v1/images/generations; Ctrl-C finishes what waits", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
