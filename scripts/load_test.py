"""Load a running server: `t2i serve`, and then `python scripts/load_test.py`.

Clients send requests one after the other, with few distinct prompts and seeds. Printed are the latencies, and whether
all requests with the same prompt and seed got the same image.
"""

from __future__ import annotations

import hashlib
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

    images: dict[tuple[str, int], set[str]] = defaultdict(set)
    for case, (status, _, digest) in zip(cases, answers, strict=True):
        if status == 200:
            images[case].add(digest)
    seconds = [latency for status, latency, _ in answers if status == 200]
    counts = ", ".join(f"{count} × {status}" for status, count in Counter(a[0] for a in answers).items())
    print(f"{ask.requests} requests from {ask.clients} clients in {took:.1f} s: {counts}")
    if seconds:
        p50, p95 = np.percentile(seconds, [50, 95])
        print(f"latency: p50 {p50:.2f} s, p95 {p95:.2f} s; {len(seconds) / took:.1f} images/s")
    differing = sum(len(digests) > 1 for digests in images.values())
    print(f"{len(images)} distinct prompts and seeds, {differing} of them with more than one image")


def request(address: str, prompt: str, seed: int) -> tuple[int, float, str]:
    """Status, seconds and the hash of the pixels of one request."""
    body = json.dumps({"prompt": prompt, "seed": seed}).encode()
    started, digest = time.perf_counter(), ""
    try:
        with urlopen(Request(f"{address}/generate", body, {"Content-Type": "application/json"})) as answer:
            status, file = answer.status, answer.read()
        digest = hashlib.sha256(np.asarray(Image.open(BytesIO(file))).tobytes()).hexdigest()
    except HTTPError as error:
        status = error.code
    return status, time.perf_counter() - started, digest


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
