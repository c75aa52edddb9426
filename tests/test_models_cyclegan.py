"""Unpaired translation: the image pools, the losses of all four networks, and the toybox domains."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from generative_models import stirred

from t2i.data.domains import OneAttribute, PrepareBoth, Unpaired
from t2i.data.sampling import NumberedSamples, _permutation
from t2i.models.adversarial.cyclegan import CycleGAN, CycleGANObjective, Pool
from t2i.training.cli import run
from t2i.training.recipes import RECIPES


def game(**options) -> CycleGANObjective:
    return stirred(CycleGANObjective(CycleGAN((8, 16)), 16, (8, 8), **options), 0.05)


def images(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(2, n, 3, 16, 16) * 2 - 1)


def numbered(start: int, n: int) -> torch.Tensor:
    return torch.arange(start, start + n).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


class Numbered:
    """Images whose pixels all encode their index."""

    def __init__(self, num: int):
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        return {"image": np.full((16, 16, 3), index, np.uint8)}


def recipe(folder: Path, data: dict | None = None, **loop):
    """The tiny preset, made even smaller."""
    tiny = RECIPES["cyclegan"]("tiny")
    sizes = {"max_train_steps": 4, "train_batch_size": 2, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, **{"scored": 8} | (data or {})),
        model=dataclasses.replace(tiny.model, widths=(8, 16)),
        objective=dataclasses.replace(tiny.objective, discriminator_channels=(8, 8), pool=3),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes | loop),
    )


# --- the pools ------------------------------------------------------------------------------------------------------


def test_a_pool_hands_through_until_it_is_full_and_then_half_the_time_something_older():
    pool, now, old = Pool(6, 4, seed=0), [], []
    assert torch.equal(pool(numbered(0, 6)), numbered(0, 6))
    for start in range(6, 606, 4):
        shown = pool(numbered(start, 4))[:, 0, 0, 0]
        now += [n for n, s in zip(range(start, start + 4), shown.tolist(), strict=True) if n == s]
        old += [int(s) for n, s in zip(range(start, start + 4), shown.tolist(), strict=True) if n != s]
    assert len(now) / 600 == pytest.approx(0.5, abs=0.06)
    assert len(set(now)) == len(now) and len(set(old)) == len(old) and not set(now) & set(old)  # each is used once
    kept = set(pool.images[:, 0, 0, 0].int().tolist())
    assert set(now) | set(old) | kept == set(range(606))


def test_a_pool_goes_on_from_its_saved_state_and_draws_nothing_from_the_run():
    whole, parts = Pool(3, 4, seed=1), Pool(3, 4, seed=1)
    state = torch.get_rng_state()
    for start in range(0, 20, 2):
        expected = whole(numbered(start, 2))
        assert torch.equal(parts(numbered(start, 2)), expected)
        saved, parts = parts.state_dict(), Pool(3, 4, seed=1)
        parts.load_state_dict(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(Pool(0, 4, seed=0)(numbered(0, 5)), numbered(0, 5))


# --- the game -------------------------------------------------------------------------------------------------------


def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_loss():
    """Compared with the losses in the paper: eq. 3 and §4, each with the other networks frozen."""
    players, (a, b) = game(), images()
    model, judges = players.model, (players.judge_a, players.judge_b)
    players.train().loss(a, b)["loss"].backward()
    together = {name: p.grad.clone() for name, p in players.named_parameters()}
    assert all(g.any() for name, g in together.items() if name.endswith("weight"))
    players.zero_grad()

    made = model.translate(b, "a"), model.translate(a, "b")
    for judge, real, fake in zip(judges, (a, b), made, strict=True):
        ((judge(real) - 1).square().mean() + judge(fake.detach()).square().mean()).div(2).backward()
    assert all(p.grad is None for p in model.parameters())
    for judge in judges:
        judge.requires_grad_(False)
    loss = sum((judge(fake) - 1).square().mean() for judge, fake in zip(judges, made, strict=True))
    loss = loss + 10 * ((model.to_a(made[1]) - a).abs().mean() + (model.to_b(made[0]) - b).abs().mean())
    (loss + 5 * ((model.to_a(a) - a).abs().mean() + (model.to_b(b) - b).abs().mean())).backward()
    for name, p in players.named_parameters():
        assert torch.allclose(together[name], p.grad, rtol=1e-3, atol=1e-6), name


def test_evaluation_leaves_the_pools_alone():
    players = game().eval()
    with torch.no_grad():
        players.loss(*images())
    assert players.pool_a.seen == players.pool_b.seen == 0
    players.train().loss(*images())
    assert players.pool_a.seen == players.pool_b.seen == 4
    assert not torch.equal(players.pool_a.images, players.pool_b.images)


def test_the_generators_learn_to_come_back():
    players, (a, b) = game(), images()
    a, b = a * 0.2 - 0.5, b * 0.2 + 0.5
    optimizer = torch.optim.Adam(players.train().parameters(), 5e-3)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        parts = players.loss(a, b)
        parts["loss"].backward()
        optimizer.step()
        found.append(parts["cycle"].item())
    assert found[-1] < 0.5 * found[0]


def test_saved_and_opened_it_translates_the_same(tmp_path):
    model, (a, _) = game().model.eval(), images()
    model.save_pretrained(tmp_path)
    again = CycleGAN.from_pretrained(tmp_path)
    with torch.no_grad():
        for to in ("a", "b"):
            translated = model.translate(a, to)
            assert torch.equal(again.translate(a, to), translated)
            assert translated.shape == a.shape and translated.abs().max() <= 1
            assert torch.allclose(model.translate(a[1:2], to), translated[1:2], atol=1e-5)
        assert not torch.equal(model.translate(a, "a"), model.translate(a, "b"))


def test_bad_input_raises(tmp_path):
    model, (a, _) = CycleGAN((8, 16)), images()
    with pytest.raises(ValueError, match="no gradient checkpointing"):
        run(recipe(tmp_path / "run", gradient_checkpointing=True))
    with pytest.raises(ValueError, match="'a' and 'b'"):
        model.translate(a, "c")
    with pytest.raises(ValueError, match="not divisible by 2"):
        model.translate(a[..., :15], "b")
    with pytest.raises(ValueError, match="must lie in"):
        model.translate(a + 3, "b")
    with pytest.raises(ValueError, match="multiple of 2"):
        CycleGANObjective(model, 15)
    with pytest.raises(ValueError, match="at least 0"):
        CycleGANObjective(model, 16, cycle=-1.0)
    with pytest.raises(ValueError, match="did you mean zebra"):
        OneAttribute("zebras", 16)
    with pytest.raises(ValueError, match="both domains"):
        Unpaired("toybox-v1:zebra", "toybox-v1:zebra", 16)
    with pytest.raises(FileNotFoundError, match="no folder"):
        Unpaired("toybox-v1:zebra", "./nowhere", 16)
    with pytest.raises(ValueError, match="scored must be at least 1"):
        recipe(tmp_path, {"scored": 0})


# --- the worlds -----------------------------------------------------------------------------------------------------


def test_pairs_are_the_same_scenes_and_differ_on_the_things_alone():
    data = Unpaired("toybox-v1:white", "toybox-v1:zebra", 32)
    white, zebra = data.pairs(6, seed=9)
    scenes = [OneAttribute("white", 32, 9, 6)[i]["scene"] for i in range(6)]
    for a, b, scene in zip(white, zebra, scenes, strict=True):
        thing = scene.layout(64).reshape(32, 2, 32, 2).any((1, 3))  # including partially covered pixels at the outline
        thing = np.pad(thing, 1)
        near = thing[1:-1, 1:-1] | thing[:-2, 1:-1] | thing[2:, 1:-1] | thing[1:-1, :-2] | thing[1:-1, 2:]
        assert scene.things[0].attribute == "white" and (a != b).any(-1).mean() > 0.03
        assert not (a != b).any(-1)[~near].any()
    assert data.pairs(6, seed=9)[0].tobytes() == white.tobytes()


def test_samples_follow_from_their_number_and_no_pair_is_among_them():
    data, again = (Unpaired("toybox-v1:white", "toybox-v1:zebra", 16, seed=3) for _ in range(2))
    samples, later = (NumberedSamples(d, PrepareBoth(d.b), seed=3) for d in (data, again))
    later = pickle.loads(pickle.dumps(later))  # as in a data worker of a resumed run
    for i in (0, 7, len(data) + 7):
        assert all((samples[i][name] == later[i][name]).all() for name in ("a", "b"))
    assert data.a.scene(5)[0].to_dict() != data.b.scene(5)[0].to_dict()
    assert not (samples[0]["b"] == samples[1]["b"]).all()
    assert Unpaired("toybox-v1:white", "digits", 16).pairs(2, 0) is None


def test_every_epoch_draws_other_partners_until_all_were_seen():
    a, b = OneAttribute("white", 16, 0, 100), Numbered(150)
    samples = NumberedSamples(a, PrepareBoth(b), seed=0)
    epochs = [[int(samples[n]["b"][0, 0, 0]) for n in range(e * len(a), (e + 1) * len(a))] for e in range(6)]
    partners = [dict(zip(_permutation(len(a), 0, e).tolist(), epoch, strict=True)) for e, epoch in enumerate(epochs)]
    for first, second in pairwise(partners):
        assert sum(first[i] == second[i] for i in first) < 0.1 * len(a)
    drawn = np.bincount(np.concatenate(epochs), minlength=len(b))
    assert (drawn > 0).mean() > 0.95 and drawn.max() < 16  # 4 on average


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_it_trains_is_scored_and_resumes_to_the_same_end(tmp_path):
    """The pools are full when it stops, so that their contents affect the discriminators later."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe(whole))
    scores = json.loads((whole / "latest" / "scores.json").read_text())
    assert scores["pictures"] == 8 and 0 < scores["untranslated"] < 1 and scores["a_to_b"] > 0
    assert CycleGAN.from_pretrained(whole / "latest").config.widths == [8, 16]
    assert (whole / "samples" / "step-000004.png").is_file()
    shutil.copytree(whole, parts, symlinks=True)
    (parts / "checkpoint-4").rename(parts / ".checkpoint-4.part")  # as after a kill after the first checkpoint
    run(recipe(parts, resume="latest"))
    weights = [p / "checkpoint-4" / "state" / "model.safetensors" for p in (whole, parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_domains_without_a_known_truth_are_shown_and_not_scored(tmp_path):
    folder = run(recipe(tmp_path / "run", {"domain_b": "digits"}, max_train_steps=1))
    assert not (folder / "scores.json").exists()
    assert (tmp_path / "run" / "samples" / "step-000001.png").is_file()
