"""T5 on captions: span corruption, and which classes open its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import losses, recipe
from transformers import AutoTokenizer, T5EncoderModel, T5ForConditionalGeneration

from t2i.data.toybox_v1 import Toybox
from t2i.text.encoders import open_text_encoder
from t2i.text.t5 import IGNORED, corrupt_spans, denoising_loss, make_t5, sentinel_ids, train_t5_tokenizer
from t2i.training.cli import run

TINY = {"width": 16, "hidden": 16, "layers": 1}
SENTINELS, END = list(range(100, 116)), 99


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return run(recipe("t5-toybox", tmp_path_factory.mktemp("runs") / "t5", TINY))


@pytest.fixture(scope="module")
def tokenizer():
    return train_t5_tokenizer(Toybox(num=500).captions(500), 600, 24)


def restored(left: list[int], out: list[int]) -> list[int]:
    """The text reconstructed from the rest and the removed spans."""
    spans: dict[int, list[int]] = {}
    for token in out[:-1]:
        if token in SENTINELS:
            spans[token] = span = []
        else:
            span.append(token)
    return [x for token in left[:-1] for x in spans.get(token, [token])]


@pytest.mark.parametrize(("rate", "mean_span"), [(0.15, 3.0), (0.5, 2.0), (0.3, 1.0)])
def test_kept_and_masked_tokens_are_the_text(rate, mean_span):
    rng = np.random.default_rng(0)
    for length in [*range(1, 30), 100]:
        text = list(range(length)) if length < 90 else list(np.arange(length) % 90)
        left, out = corrupt_spans(text, rng, SENTINELS, END, rate, mean_span)
        assert restored(left, out) == text
        assert left[-1] == out[-1] == END
        taken = [t for t in out[:-1] if t not in SENTINELS]
        assert len(taken) == max(1, round(length * rate))
        used = [t for t in left if t in SENTINELS]
        assert used == [t for t in out if t in SENTINELS] == SENTINELS[: len(used)]
        assert not any(a in SENTINELS and b in SENTINELS for a, b in pairwise(left))
    assert corrupt_spans([], rng, SENTINELS, END, 0.15, 3.0) == ([END], [END])


def test_every_position_is_masked_equally_often():
    rng, counts = np.random.default_rng(0), np.zeros(10)
    for _ in range(4_000):
        _, out = corrupt_spans(range(10), rng, SENTINELS, END, 0.1, 3.0)
        counts[out[1]] += 1
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_the_loss_of_a_batch_is_the_mean_of_its_halves(tokenizer):
    model = make_t5(tokenizer, width=16, hidden=16, layers=1, decoder_layers=1, heads=2).eval()
    sentinels, texts = sentinel_ids(tokenizer), list(Toybox(num=6).captions(6))
    ids, targets = torch.zeros(6, 24, dtype=torch.long), torch.full((6, 24), IGNORED)
    for i, text in enumerate(texts):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        left, out = corrupt_spans(tokens, np.random.default_rng(i), sentinels, tokenizer.eos_token_id, 0.15, 3.0)
        ids[i, : len(left)], targets[i, : len(out)] = torch.tensor(left), torch.tensor(out)
    whole, *halves = (
        denoising_loss(model, ids[rows], targets[rows], sentinels)["loss"]
        for rows in (slice(None), slice(0, 3), slice(3, 6))
    )
    assert torch.allclose(whole, sum(halves) / 2, atol=1e-5)
    theirs = [
        model(ids[i : i + 1], attention_mask=(ids[i : i + 1] != 0).long(), labels=targets[i : i + 1]) for i in range(6)
    ]
    assert torch.allclose(whole, torch.stack([out.loss for out in theirs]).mean(), atol=1e-5)


def test_a_few_spans_are_memorised(tokenizer):
    torch.manual_seed(0)
    model = make_t5(tokenizer, width=32, hidden=32, layers=1, decoder_layers=1, heads=2).train()
    sentinels = sentinel_ids(tokenizer)
    text = tokenizer("a red cat on top of a blue car", add_special_tokens=False)["input_ids"]
    left, out = corrupt_spans(text, np.random.default_rng(0), sentinels, tokenizer.eos_token_id, 0.4, 3.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        found = denoising_loss(model, torch.tensor([left]), torch.tensor([out]), sentinels)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert found["accuracy"] == 1


def test_a_checkpoint_holds_only_the_encoder(trained):
    encoder, tokenizer = T5EncoderModel.from_pretrained(trained).eval(), AutoTokenizer.from_pretrained(trained)
    tokens = tokenizer(["a red cat", "A Wooden horse ☃"], padding="max_length", truncation=True, return_tensors="pt")
    ours = open_text_encoder(trained).encode(["a red cat", "A Wooden horse ☃"])
    with torch.no_grad():
        assert torch.equal(encoder(**tokens).last_hidden_state, ours.states)
    assert torch.equal(tokens["attention_mask"].bool(), ours.mask)
    ends = tokens["input_ids"][torch.arange(2), ours.mask.sum(1) - 1]
    assert (ends == tokenizer.eos_token_id).all()
    assert tokenizer.decode(tokens["input_ids"][1], skip_special_tokens=True).strip() == "a wooden horse ☃"
    whole = T5ForConditionalGeneration.from_pretrained(trained)  # its decoder is newly initialised: it is not saved
    assert torch.equal(whole.shared.weight, encoder.shared.weight)
    scores = json.loads((trained / "scores.json").read_text())["held_out"]
    assert scores["loss"] > 0
    assert 0 <= scores["accuracy"] <= 1
    assert (trained.parent / "samples" / "step-000006.png").is_file()


def test_a_resumed_run_is_one_that_never_stopped(tmp_path):
    how = {"max_train_steps": 4, "checkpointing_steps": 2}
    run(recipe("t5-toybox", tmp_path / "whole", TINY, **how))
    parts = tmp_path / "parts"
    run(recipe("t5-toybox", parts, TINY, **how))
    (parts / "checkpoint-4").rename(parts / ".checkpoint-4.part")  # as after a kill
    run(recipe("t5-toybox", parts, TINY, **how, resume="latest"))
    assert losses(parts) == losses(tmp_path / "whole")


def test_captions_of_a_folder_train_too(shared_data, tmp_path):
    tiny = recipe("t5-toybox", tmp_path / "run", TINY)
    data = dataclasses.replace(tiny.data, data=str(shared_data / "noto-emoji"))
    checkpoint = run(dataclasses.replace(tiny, data=data))
    assert open_text_encoder(checkpoint).encode(["red apple"]).states.isfinite().all()


def test_invalid_configs_raise(tmp_path):
    with pytest.raises(ValueError, match=r"corruption_rate must lie in \(0, 0\.5\]"):
        recipe("t5-toybox", tmp_path, {}, corruption_rate=0.9)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        run(recipe("t5-toybox", tmp_path / "a", {**TINY, "heads": 3}))
