"""`t2i serve`: generate images for HTTP requests."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from t2i.arguments import parse
from t2i.checks import UsageError, check_options, check_real, check_whole
from t2i.pipelines.commands.common import LoadingOptions, check_prompts_suffice


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
    from t2i.pipelines.commands.tasks import for_task
    from t2i.pipelines.loading.auto import open_pipeline

    listening = _bound(options.host, options.port)  # before the pipeline is opened, which may take minutes
    name, loading = options.pipeline, (options.device, options.lora, options.lora_scale, options.dtype)
    pipe = open_pipeline(name, *loading)
    check_prompts_suffice(pipe, name)
    pipe = for_task(pipe, "text", name)
    pipe.set_progress_bar_config(disable=True)
    settings = {key: value for key in ("lora", "lora_scale", "dtype") if (value := getattr(options, key)) is not None}
    app = make_app(pipe, name, options.max_batch_size, options.max_waiting, options.timeout, settings)
    host, port = listening.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"{name} at http://{address}/v1/images/generations; Ctrl-C finishes what waits", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket with this address, which does not listen yet. Raises UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}; give an address of this machine") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; give another one") from error
    return bound
