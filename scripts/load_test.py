"""Load a running server: `t2i serve`, and then `python scripts/load_test.py`.

Clients send requests one after the other, with few distinct prompts and seeds. Printed are the latencies, and by how
much the images of requests with the same prompt and seed differ: batches of other sizes are rounded differently.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from t2i.arguments import parse
from t2i.checks import check_whole
from t2i.cli_errors import exit_on_bad_input

PROMPTS = ("an avocado armchair", "a red cat", "three green apples", "a zebra teapot")


@dataclass(frozen=True)
class LoadTest:
    address: str = "http://127.0.0.1:8000"
    """Address of the server."""
    requests: int = 200
    """Number of requests, of one image each."""
    clients: int = 20
    """Number of clients that send requests at the same time."""
    seeds: int = 4
    """Number of distinct seeds."""

    def __post_init__(self) -> None:
        for name in ("requests", "clients", "seeds"):
            check_whole(f"--{name}", getattr(self, name))


def main(args: list[str]) -> None:
    ask = parse(LoadTest(), args, prog="load_test.py", description=__doc__)
    cases = [(PROMPTS[i % len(PROMPTS)], i // len(PROMPTS) % ask.seeds) for i in range(ask.requests)]
    started = time.perf_counter()
    with ThreadPoolExecutor(ask.clients) as clients:
        answers = list(clients.map(lambda case: request(ask.address, *case), cases))
    took = time.perf_counter() - started

    images: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for case, (_, _, image) in zip(cases, answers, strict=True):
        if image is not None:
            images[case].append(image)
    seconds = [latency for _, latency, image in answers if image is not None]
    counts = ", ".join(f"{count} × {status}" for status, count in Counter(a[0] for a in answers).items())
    print(f"{ask.requests} requests from {ask.clients} clients in {took:.1f} s: {counts}")
    if seconds:
        p50, p95 = np.percentile(seconds, [50, 95])
        print(f"latency: p50 {p50:.2f} s, p95 {p95:.2f} s; {len(seconds) / took:.1f} images/s")
    by = [max(int(abs(image - same[0]).max()) for image in same) for same in images.values()]
    print(f"{len(by)} distinct prompts and seeds, {sum(map(bool, by))} of them with images that differ", end="")
    print(f", by up to {max(by)} of 255 levels" if any(by) else "")


def request(address: str, prompt: str, seed: int) -> tuple[int, float, np.ndarray | None]:
    """Status, seconds, and the pixels of one request, int16 (H, W, 3); None without an image."""
    body = json.dumps({"prompt": prompt, "seed": seed}).encode()
    started, image = time.perf_counter(), None
    try:
        with urlopen(Request(f"{address}/generate", body, {"Content-Type": "application/json"})) as answer:
            status, file = answer.status, answer.read()
        image = np.asarray(Image.open(BytesIO(file))).astype(np.int16)
    except HTTPError as error:
        status = error.code
    return status, time.perf_counter() - started, image


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
