"""CLIP on toybox: its loss on several processes, its near misses, and which classes open its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from clip_worker import gradients, step_on_rank
from PIL import Image
from test_training import command, losses, recipe
from transformers import AutoImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from t2i.data.toybox_v1 import HELD_OUT, Scene, Thing, Toybox
from t2i.data.toybox_v1.classifier import Prediction
from t2i.data.toybox_v1.near_misses import near_misses, turned_round
from t2i.eval.features import open_extractor
from t2i.images import to_tensor
from t2i.text.clip import contrastive_loss, make_clip, tokenize, train_clip_tokenizer
from t2i.text.encoders import open_text_encoder
from t2i.training.cli import run
from t2i.training.recipes.text.clip import cosines

TINY = {"text_width": 16, "text_layers": 1, "image_width": 16, "image_layers": 1, "dim": 16, "patch_size": 16}


def clip_recipe(folder: Path, **options):
    return recipe("clip-toybox", folder, TINY, **{"train_batch_size": 2, "near_misses": 2, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return run(clip_recipe(tmp_path_factory.mktemp("runs") / "clip"))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_clip_tokenizer(Toybox(num=500).captions(500), 700, 24)


def tiny_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return make_clip(tokenizer, 16, 16, 1, 2, 8, 16, 1, 2, dim=8)


def batch(tokenizer: CLIPTokenizer, n: int) -> dict:
    data, g = Toybox(num=n), torch.Generator().manual_seed(1)
    scenes = [data.scene(i) for i in range(n)]
    return {
        "images": torch.rand(n, 3, 16, 16, generator=g) * 2 - 1,
        "ids": tokenize(tokenizer, [text for _, text in scenes]),
        "retold": tokenize(tokenizer, [turned_round(scene).caption() for scene, _ in scenes]),
    }


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_both_ways(tokenizer):
    model, given = tiny_clip(tokenizer), batch(tokenizer, 6)
    with torch.no_grad():
        out = contrastive_loss(model, given["images"], given["ids"])
        theirs = model(input_ids=given["ids"], pixel_values=given["images"], return_loss=True)
    assert torch.allclose(out["loss"], theirs.loss, atol=1e-5)
    own = torch.arange(6)
    assert out["image_to_text"] == (theirs.logits_per_image.argmax(1) == own).float().mean()
    assert out["text_to_image"] == (theirs.logits_per_text.argmax(1) == own).float().mean()


def test_a_caption_and_its_identical_paraphrase_match(tokenizer):
    model, given = tiny_clip(tokenizer), batch(tokenizer, 6)
    alone = contrastive_loss(model, given["images"], given["ids"])["loss"]
    same = contrastive_loss(model, given["images"], given["ids"], given["ids"], retold_weight=0.0)
    assert torch.allclose(same["loss"], alone, atol=1e-5)
    assert same["text_to_text"] == 1


def test_the_scale_never_exceeds_a_hundred(tokenizer):
    model, given = tiny_clip(tokenizer), batch(tokenizer, 4)
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
    assert contrastive_loss(model, **given)["logit_scale"] == pytest.approx(100, rel=1e-5)
    assert model.logit_scale.item() == pytest.approx(math.log(100))


def test_a_few_pairs_are_memorised(tokenizer):
    model, given = tiny_clip(tokenizer), batch(tokenizer, 8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(80):
        out = contrastive_loss(model, **given)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["image_to_text"] == out["text_to_image"] == out["text_to_text"] == 1


def test_two_processes_with_half_the_batch_have_the_gradient_of_the_whole(tokenizer, tmp_path):
    model, given = tiny_clip(tokenizer), batch(tokenizer, 8)
    mp.spawn(step_on_rank, (2, str(tmp_path), model, given), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    one = gradients(model, contrastive_loss(model, **given))
    assert torch.allclose(one.pop("loss"), (first.pop("loss") + second.pop("loss")) / 2, atol=1e-5)
    for name, gradient in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], gradient, atol=1e-5), name


# --- near misses ----------------------------------------------------------------------------------------------------


def test_near_misses_differ_in_one_fact():
    data = Toybox(num=300)
    for i in range(300):
        scene, _ = data.scene(i)
        others = near_misses(scene, 4, np.random.default_rng(i))
        assert others == near_misses(scene, 4, np.random.default_rng(i))
        assert len({Prediction.of(s) for s in (scene, *others)}) == 5
        assert {s.background for s in others} == {scene.background}
        assert not any((t.attribute, t.kind) in HELD_OUT for s in others for t in s.things)
        for other in others:
            assert len(other.things) == len(scene.things)
            facts = [
                [x for t in s.things for x in (t.kind, t.attribute, t.count)] + [s.relation] for s in (scene, other)
            ]
            exchanged = sorted(map(str, facts[0])) == sorted(map(str, facts[1]))
            assert exchanged or sum(a != b for a, b in zip(*facts, strict=True)) == 1


def test_near_misses_of_two_things_begin_with_the_swaps():
    scene = Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of")
    texts = {s.caption() for s in near_misses(scene, 2, np.random.default_rng(0))}
    # neither may be a held-out pair: "blue cat" is one, so a random change replaces it
    assert "a blue car on top of a red cat" in texts
    scene = Scene((Thing("robot", "red"), Thing("house", "blue")), "left of")
    texts = {s.caption() for s in near_misses(scene, 2, np.random.default_rng(0))}
    assert texts == {"a blue robot left of a red house", "a blue house left of a red robot"}


def test_a_scene_turned_round_is_the_same_scene():
    data = Toybox(num=200)
    for i in range(200):
        scene, _ = data.scene(i)
        turned = turned_round(scene)
        assert Prediction.of(turned) == Prediction.of(scene)
        assert turned_round(turned) == scene
        assert (turned == scene) == (scene.relation is None)


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_opens_with_transformers_and_with_ours(trained):
    model, tower = CLIPModel.from_pretrained(trained).eval(), CLIPTextModel.from_pretrained(trained).eval()
    tokenizer = CLIPTokenizer.from_pretrained(trained)
    ids = tokenize(tokenizer, ["a red cat", "a wooden horse in the snow"])
    with torch.no_grad():
        states = tower(ids).last_hidden_state
        assert torch.equal(model.text_model(ids).last_hidden_state, states)
    assert torch.equal(open_text_encoder(trained).encode(["a red cat", "a wooden horse in the snow"]).states, states)
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["pairs"] == 256
    assert all(0 <= score <= 1 for name, score in scores.items() if name != "pairs")
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    assert (trained.parent / "samples" / "step-000006.png").is_file()


def test_evaluation_preprocesses_images_as_training_does(trained):
    images = torch.from_numpy(np.stack([Toybox(num=4)[i]["image"] for i in range(4)]))
    pixels = AutoImageProcessor.from_pretrained(trained)(images=list(images.permute(0, 3, 1, 2)), return_tensors="pt")
    assert torch.allclose(pixels["pixel_values"], to_tensor(images), atol=1e-6)
    extractor = open_extractor(f"clip:{trained}")
    pictures, texts = extractor(images.permute(0, 3, 1, 2)), extractor.encode_text(["a red cat", "a brick house"])
    model, tokenizer = CLIPModel.from_pretrained(trained).eval(), CLIPTokenizer.from_pretrained(trained)
    ours = cosines(model, tokenizer, images, ["a red cat", "a brick house"])
    theirs = torch.nn.functional.cosine_similarity(pictures[:, None], texts[None], dim=-1)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_one_that_never_stopped(tmp_path):
    how = {"max_train_steps": 4, "checkpointing_steps": 2}
    run(clip_recipe(tmp_path / "whole", **how))
    parts = tmp_path / "parts"
    run(clip_recipe(parts, **how))
    (parts / "checkpoint-4").rename(parts / ".checkpoint-4.part")  # as after a kill
    run(clip_recipe(parts, **how, resume="latest"))
    assert losses(parts) == losses(tmp_path / "whole")
    weights = [p / "checkpoint-4" / "model.safetensors" for p in (tmp_path / "whole", parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_processes_train_as_one(tmp_path):
    runs = {}
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        steps = ["--train-batch-size", str(4 // processes), "--max-train-steps", "3", "--output-dir", str(folder)]
        args = command("clip-toybox", *steps, *sizes, processes=processes)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
        subprocess.run(args, check=True, capture_output=True, timeout=300, env=on_cpu)
        runs[processes] = losses(folder)
    assert np.allclose(runs[1], runs[2], rtol=1e-3)


def test_a_run_starts_from_another(trained, tmp_path):
    folder = run(clip_recipe(tmp_path / "next", init_from=str(trained), learning_rate=1e-9, max_train_steps=1))
    before, after = (CLIPModel.from_pretrained(f).state_dict() for f in (trained, folder))
    assert all(torch.allclose(x, after[name], atol=1e-5) for name, x in before.items())
    wider = {**TINY, "text_width": 32}
    with pytest.raises(ValueError, match="other sizes or tokens"):
        run(recipe("clip-toybox", tmp_path / "wider", wider, init_from=str(trained)))


def test_any_folder_of_images_trains(tmp_path):
    folder = tmp_path / "discs"
    folder.mkdir()
    lines = []
    for i in range(8):
        Image.new("RGB", (40, 40), (20 * i, 200, 100)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"disc number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    tiny = clip_recipe(tmp_path / "run")
    checkpoint = run(dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, data=str(folder))))
    assert json.loads((checkpoint / "scores.json").read_text())["pairs"] == 8


def test_invalid_configs_raise(tmp_path):
    with pytest.raises(ValueError, match="gradient-accumulation-steps at 1"):
        clip_recipe(tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"near_misses must lie in \[0, 8\]"):
        clip_recipe(tmp_path, near_misses=9)
    with pytest.raises(ValueError, match="do not tile an image of 64"):
        run(recipe("clip-toybox", tmp_path / "a", {**TINY, "patch_size": 24}))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        run(recipe("clip-toybox", tmp_path / "b", {**TINY, "text_heads": 3}))
