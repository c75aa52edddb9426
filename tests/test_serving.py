"""`t2i serve`: what is generated over HTTP is what the pipeline generates alone, whoever asks at the same time."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx2
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from t2i.pipelines.serving.app import MAX_BODY, make_app
from t2i.pipelines.serving.batcher import Batcher, Closing, Job, QueueFull

PROMPTS = ("a red cat", "a blue car", "a zebra teapot")


def alone(pipe, prompt: str, seed: int, **options) -> np.ndarray:
    return np.asarray(pipe(prompt, generator=[torch.Generator().manual_seed(seed)], **options).images[0])


def decoded(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def with_client(app, work: Callable[[httpx2.AsyncClient], Awaitable]):
    """Run `work` with a client of the application, which is started and ended; no socket is opened."""

    async def run():
        transport = httpx2.ASGITransport(app=app)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://t") as c:
            return await work(c)

    return asyncio.run(run())


class Slow:
    """A pipeline that waits for `go`, notes the batches it is given, and fails for the prompt "bad"."""

    def __init__(self):
        self.go, self.started, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, prompts: list[str], generator: list[torch.Generator], top_k: int | None = None, **output):
        self.started.set()
        assert self.go.wait(20)
        self.batches.append((prompts, top_k))
        if "bad" in prompts:
            raise ValueError("this prompt is bad")
        if output:  # called as a pipeline of diffusers
            return SimpleNamespace(images=np.zeros((len(prompts), 4, 4, 3)))
        return [Image.new("RGB", (4, 4), (g.initial_seed() % 256, 0, 0)) for g in generator]


def test_the_openai_client_gets_the_images_that_the_seeds_give_alone(pipe):
    async def work(http: httpx2.AsyncClient):
        client = openai.AsyncOpenAI(api_key="none", base_url="http://t/v1", http_client=http)
        assert [model.id for model in (await client.models.list()).data] == ["tiny"]
        further = {"seed": 5, "top_k": 4}
        return await client.images.generate(prompt=PROMPTS[0], model="tiny", n=2, size="16x16", extra_body=further)

    found = with_client(make_app(pipe, "tiny", loading={"dtype": "float32"}), work)
    assert len(found.data) == 2
    for i, image in enumerate(found.data):
        assert np.array_equal(np.asarray(decoded(image.b64_json)), alone(pipe, PROMPTS[0], 5 + i, top_k=4))
        chunks = decoded(image.b64_json).text
        assert chunks["seed"] == str(5 + i)
        assert json.loads(chunks["settings"]) == {"dtype": "float32", "top_k": 4, "width": 16, "height": 16}


def test_nothing_is_lost_or_mixed_up_among_many_clients(pipe):
    """200 requests from 20 clients, with three prompts and two settings."""
    expected = {
        (prompt, seed, k): alone(pipe, prompt, seed, top_k=k) for prompt in PROMPTS for seed in range(4) for k in (2, 8)
    }
    cases = [list(expected)[i % len(expected)] for i in range(200)]

    async def work(http: httpx2.AsyncClient):
        async def client(own: list) -> list:
            return [await ask(http, "/generate", prompt=p, seed=s, top_k=k) for p, s, k in own]

        answers = await asyncio.gather(*(client(cases[i::20]) for i in range(20)))
        return answers, (await http.get("/metrics")).text

    answers, metrics = with_client(make_app(pipe, "tiny", max_waiting=20), work)
    for i in range(20):
        for case, answer in zip(cases[i::20], answers[i], strict=True):
            assert answer.status_code == 200
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected[case])
    assert 't2i_requests_total{status="200"} 200.0' in metrics and "t2i_images_total 200.0" in metrics
    assert float(re.search(r"t2i_batch_images_count (\S+)", metrics)[1]) < 200  # they shared batches


def test_bad_requests_are_told_why(pipe):
    cases = {
        "prompt must have": {"prompt": " "},
        "n must be at most 8": {"n": 9},
        "seed must": {"seed": -1},
        "top_p must": {"top_p": 2.0},
        "size must be as in 128x128": {"size": "large"},
        "at most 1,048,576 pixels": {"size": "16384x16384"},
        "num_candidates must be at most 64": {"n": 2, "num_candidates": 33},
        "reranker must be likelihood": {"num_candidates": 2, "reranker": "open_clip:ViT-B-32//etc/passwd"},
        "takes no scheduler": {"scheduler": "ddim"},
        "quality": {"quality": "hd"},
        "response_format": {"response_format": "url"},
        "generates images of": {"size": "8x8"},
    }

    async def work(http: httpx2.AsyncClient):
        found = {says: await ask(http, **{"prompt": "a cat", **body}) for says, body in cases.items()}
        long = await http.post("/generate", content=b"[" * (MAX_BODY + 1))
        missing = await http.get("/v1/images/edits")
        return found, long, await ask(http, prompt="a cat", model="gpt"), await http.get("/health"), missing

    found, long, other, health, missing = with_client(make_app(pipe, "tiny"), work)
    for says, answer in found.items():
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), says
        assert says in error["message"], (says, error)
    assert (long.status_code, other.status_code, health.json()["status"]) == (413, 404, "ok")
    assert missing.status_code == 404 and missing.json()["error"]["message"]
    assert "the served one is 'tiny'" in other.json()["error"]["message"]


def test_a_full_queue_gives_429_and_a_late_request_504():
    slow = Slow()

    async def work(http: httpx2.AsyncClient):
        first = asyncio.create_task(ask(http, "/generate", prompt="a", seed=1))
        await asyncio.to_thread(slow.started.wait, 20)
        waits = asyncio.create_task(ask(http, "/generate", prompt="b", seed=2))
        while (await http.get("/health")).json()["waiting"] < 1:
            await asyncio.sleep(0.01)
        full = await ask(http, "/generate", prompt="c", seed=3)
        late = await asyncio.gather(first, waits)
        slow.go.set()
        return full, late

    full, late = with_client(make_app(slow, "slow", max_waiting=1, timeout=1), work)
    assert full.status_code == 429 and full.headers["Retry-After"] == "1"
    assert [answer.status_code for answer in late] == [504, 504]
    assert slow.batches == [(["a"], None)]  # the other one was no longer wanted


def test_jobs_share_a_batch_only_with_equal_options_and_a_bad_one_fails_alone():
    slow = Slow()
    batcher = Batcher(slow, max_batch_size=3)
    first = Job("first", (0,))
    batcher.submit(first)
    assert slow.started.wait(20)
    jobs = [Job("a", (1, 2)), Job("b", (3,), {"top_k": 2}), Job("bad", (4,)), Job("c", (5, 6))]
    for job in jobs:
        batcher.submit(job)
    slow.go.set()
    batcher.close()  # finishes what waits
    assert slow.batches[:2] == [(["first"], None), (["a", "a", "bad"], None)]
    assert sorted(slow.batches[2:], key=str) == sorted(
        [(["a", "a"], None), (["bad"], None), (["b"], 2), (["c", "c"], None)], key=str
    )
    with pytest.raises(ValueError, match="this prompt is bad"):
        jobs[2].images.result(0)
    for job in (first, jobs[0], jobs[1], jobs[3]):
        assert [image.getpixel((0, 0))[0] for image in job.images.result(0)] == list(job.seeds)
    with pytest.raises(Closing):
        batcher.submit(Job("late", (0,)))


def test_as_many_jobs_wait_as_may_wait():
    slow = Slow()
    batcher = Batcher(slow, max_waiting=2)
    batcher.submit(Job("running", (0,)))
    assert slow.started.wait(20)
    for seed in (1, 2):
        batcher.submit(Job("waits", (seed,)))
    with pytest.raises(QueueFull):
        batcher.submit(Job("too many", (3,)))
    slow.go.set()
    batcher.close()


@pytest.mark.enable_socket
def test_the_command_answers_and_sigterm_finishes_what_waits(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "tiny")
    command = [sys.executable, "-m", "t2i.cli", "serve", "--pipeline", str(tmp_path / "tiny"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
        body = {"prompt": PROMPTS[0], "seed": 3}
        expected = alone(pipe, PROMPTS[0], 3)
        with ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(httpx2.post, f"{address}/generate", json=body, timeout=30) for _ in range(12)]
            while sum(answer.done() for answer in asked) + in_progress(address) < 12:
                time.sleep(0.01)
            server.send_signal(signal.SIGTERM)
            answers = [answer.result() for answer in asked]
        assert [answer.status_code for answer in answers] == [200] * 12
        for answer in answers:
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)
        assert server.wait(20) in (0, -signal.SIGTERM)
    finally:
        server.kill()


def in_progress(address: str) -> int:
    """Requests that have arrived and wait for their answer."""
    return int(float(re.search(r"^t2i_requests_in_progress (\S+)", httpx2.get(f"{address}/metrics").text, re.M)[1]))


async def ask(http: httpx2.AsyncClient, path: str = "/v1/images/generations", **body) -> httpx2.Response:
    return await http.post(path, json=body)
