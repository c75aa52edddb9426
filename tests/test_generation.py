"""Batch generation of images, and their prompts."""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from launching import launched
from PIL import Image
from test_feature_extractors import make_clip

from t2i.data.toybox_v1 import COLOURS, HELD_OUT, TEXTURES
from t2i.eval.generation.images import Item, describe, generate, generate_batches, generate_on_all, merge, read_manifest
from t2i.eval.generation.prompt import Prompt
from t2i.eval.generation.prompts import CATEGORIES, WORDINGS, open_prompts
from t2i.processes import this_process

PROMPTS = [Prompt("a red cat", "x", None, "x/0"), Prompt("a blue car", "x", None, "x/1")]
SEEDS = (0, 1, 7)


class Watched:
    """A real pipeline that records its prompts, and stops as on Ctrl-C after `calls` calls."""

    def __init__(self, pipe, calls: int = 100):
        self.pipe, self.calls, self.prompts = pipe, calls, []
        self.components = pipe.components

    def __call__(self, prompt, generator=None, output_type="pil", top_k=64):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.prompts += prompt
        return self.pipe(prompt, generator=generator, output_type=output_type, top_k=top_k)


class Filled:
    """Generates images with a constant value."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, prompt, generator=None, output_type="pil"):
        return SimpleNamespace(images=np.full((len(prompt), 8, 8, 3), self.value, np.float32))


class Small:
    """A machine with memory for `room` images; each image is noise from its generator."""

    def __init__(self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError):
        self.room, self.error, self.sizes = room, error, []

    def __call__(self, prompt, generator=None, output_type="pil"):
        noise = [torch.rand(4, 4, 3, generator=g).numpy() for g in generator]
        self.sizes.append(len(prompt))
        if len(prompt) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 20 MiB")
        return SimpleNamespace(images=np.stack(noise))


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").iterdir()}


# --- independence ---------------------------------------------------------------------------------------------------


def test_the_noise_depends_on_key_and_seed_only():
    noise = {
        (p.key, s): torch.rand(4, generator=Item(i, p, s).generator()).tolist()
        for i, p in enumerate(PROMPTS)
        for s in SEEDS
    }
    assert len({tuple(values) for values in noise.values()}) == len(noise)
    again = Item(9, PROMPTS[1], 7).generator()
    assert torch.rand(4, generator=again).tolist() == noise["x/1", 7]


def test_files_do_not_depend_on_processes_or_batch_size(pipe, tmp_path):
    one = generate(pipe, PROMPTS, SEEDS, tmp_path / "one", batch_size=1)
    generate(pipe, PROMPTS, SEEDS, tmp_path / "whole", batch_size=6)
    for rank in (0, 1):
        generate(pipe, PROMPTS, SEEDS, tmp_path / "two", rank, 2, batch_size=2)
    two = merge(tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "whole") == files(tmp_path / "two")
    assert one == two == read_manifest(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["images", "manifest.json"]


def test_shares_of_processes_are_disjoint_and_complete(pipe, tmp_path):
    shares = [generate(pipe, PROMPTS[:1], range(7), tmp_path, rank, 3)["images"] for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(entry["index"] for share in shares for entry in share) == list(range(7))


def test_the_manifest_records_images_and_settings(pipe, tmp_path):
    manifest = generate(pipe, PROMPTS, SEEDS, tmp_path, name="tiny", top_k=5, temperature=None)
    assert [(e["key"], e["seed"]) for e in manifest["images"]] == [(p.key, s) for p in PROMPTS for s in SEEDS]
    header = manifest["header"]
    assert (header["pipeline"], header["class"], header["options"]) == ("tiny", "DallePipeline", {"top_k": 5})
    default = inspect.signature(pipe.__call__).parameters["guidance_scale"].default
    assert header["guidance_scale"] == default and header["seeds"] == list(SEEDS)
    assert set(header["weights_sha256"]) == {"prior", "image_tokenizer"}
    entry = manifest["images"][0]
    assert entry["prompt"] == "a red cat" and entry["file"] == "images/x-0-a-red-cat-0.png"
    expected = pipe("a red cat", generator=[Item(0, PROMPTS[0], 0).generator()], top_k=5).images[0]
    assert np.array_equal(Image.open(tmp_path / entry["file"]), expected)


def test_a_diffusers_pipeline_generates_the_same_at_any_batch_size(text_tokenizer, tmp_path):
    pipe = tiny_stable_diffusion(text_tokenizer)
    how = {"num_inference_steps": 2, "height": 16, "width": 16}
    header = generate(pipe, PROMPTS, [0], tmp_path / "a", batch_size=2, **how)["header"]
    generate(pipe, PROMPTS, [0], tmp_path / "b", batch_size=1, **how)
    assert header["scheduler"]["class"] == "DDIMScheduler" and header["num_inference_steps"] == 2
    for path in (tmp_path / "a" / "images").iterdir():
        a, b = (np.array(Image.open(f)).astype(int) for f in (path, tmp_path / "b" / "images" / path.name))
        assert a.shape == (16, 16, 3) and np.abs(a - b).max() <= 1


def test_infinite_scheduler_settings_are_strings_in_the_manifest(text_tokenizer):
    from diffusers import DPMSolverMultistepScheduler

    pipe = tiny_stable_diffusion(text_tokenizer)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    found = describe(pipe, "tiny", {})
    assert found["scheduler"]["lambda_min_clipped"] == "-inf"
    json.dumps(found, allow_nan=False)


def tiny_stable_diffusion(tokenizer):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, eos_token_id=1, **sizes)
    tokenizer = copy.deepcopy(tokenizer)  # shared with other tests
    tokenizer.model_max_length = 16
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks)
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    parts = (vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None)
    pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- resuming -------------------------------------------------------------------------------------------------------


def test_only_missing_or_damaged_images_are_generated_again(pipe, tmp_path):
    manifest = generate(Watched(pipe), PROMPTS, SEEDS, tmp_path)
    whole, names = files(tmp_path), [tmp_path / e["file"] for e in manifest["images"]]
    names[0].unlink()
    names[3].unlink()
    names[5].write_bytes(b"not this image")
    watched = Watched(pipe)
    assert generate(watched, PROMPTS, SEEDS, tmp_path) == manifest
    assert watched.prompts == ["a red cat", "a blue car", "a blue car"]
    assert files(tmp_path) == whole


def test_a_stopped_generation_resumes(pipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(Watched(pipe, calls=2), PROMPTS, SEEDS, tmp_path / "stopped", batch_size=2)
    log = tmp_path / "stopped" / "manifest-0.jsonl"
    log.write_text(log.read_text()[:-30])  # a kill truncates the last line
    watched = Watched(pipe)
    manifest = generate(watched, PROMPTS, SEEDS, tmp_path / "stopped", batch_size=2)
    assert len(watched.prompts) == 3, "two images were missing, and one was not recorded"
    assert manifest == generate(Watched(pipe), PROMPTS, SEEDS, tmp_path / "whole")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_finished_folder_generates_nothing(pipe, tmp_path):
    manifest = generate(Watched(pipe), PROMPTS, SEEDS, tmp_path)
    assert generate(Watched(pipe, calls=0), PROMPTS, SEEDS, tmp_path) == manifest


def test_a_generation_resumes_with_another_number_of_processes(pipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(Watched(pipe, calls=4), PROMPTS, SEEDS, tmp_path, batch_size=1)
    generated = 0
    for rank in (0, 1):
        watched = Watched(pipe)
        generate(watched, PROMPTS, SEEDS, tmp_path, rank, 2)
        generated += len(watched.prompts)
    assert generated == 2 and len(merge(tmp_path)["images"]) == 6


def test_an_unfinished_folder_is_not_merged(pipe, tmp_path):
    generate(pipe, PROMPTS, SEEDS, tmp_path, 0, 2)
    with pytest.raises(ValueError, match=r"3 of 6 images; run the same command again"):
        merge(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the same command again"):
        read_manifest(tmp_path)


def test_a_folder_of_other_settings_raises(pipe, tmp_path):
    generate(pipe, PROMPTS, SEEDS, tmp_path)
    for prompts, seeds, options, what in (
        (PROMPTS, SEEDS, {"top_k": 3}, "options"),
        (PROMPTS[:1], SEEDS, {}, "prompts"),
        (PROMPTS, (0,), {}, "seeds"),
        (PROMPTS, SEEDS, {"name": "another"}, "pipeline"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({what}.*give another folder"):
            generate(pipe, prompts, seeds, tmp_path, **options)
    with torch.no_grad():
        next(pipe.prior.parameters()).mul_(2)
    with pytest.raises(ValueError, match="weights_sha256"):
        generate(pipe, PROMPTS, SEEDS, tmp_path)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_changes_no_image(error):
    items = [Item(i, PROMPTS[0], i) for i in range(9)]
    small, large = Small(2, error), Small(100)
    tight, roomy = ([i for _, images in generate_batches(p, items, 8) for i in images] for p in (small, large))
    assert small.sizes == [8, 4, 2, 2, 2, 2, 1] and large.sizes == [8, 1]
    assert all(np.array_equal(a, b) for a, b in zip(tight, roomy, strict=True))


def test_out_of_memory_for_one_image_and_other_errors_raise(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        generate(Small(0), PROMPTS, SEEDS, tmp_path / "a")

    def broken(prompt, generator=None):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        generate(broken, PROMPTS, SEEDS, tmp_path / "b")


def test_nan_raises_and_names_the_prompt(tmp_path):
    with pytest.raises(FloatingPointError, match="'a red cat'"):
        generate(Filled(float("nan")), PROMPTS, SEEDS, tmp_path)


def test_black_images_are_counted(tmp_path):
    assert generate(Filled(0.0), PROMPTS, SEEDS, tmp_path / "black")["black"] == 6
    assert generate(Filled(0.1), PROMPTS, SEEDS, tmp_path / "grey")["black"] == 0


def test_bad_arguments_raise(pipe, tmp_path):
    for bad in ({"batch_size": 0}, {"rank": 2, "world": 2}, {"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}):
        with pytest.raises(ValueError, match="at least"):
            generate(pipe, PROMPTS, **({"seeds": SEEDS, "out": tmp_path} | bad))
    with pytest.raises(ValueError, match="takes no steps"):
        generate(pipe, PROMPTS, SEEDS, tmp_path, steps=3)
    with pytest.raises(ValueError, match="generator is set by the evaluation"):
        generate(pipe, PROMPTS, SEEDS, tmp_path, generator=torch.Generator())
    with pytest.raises(ValueError, match="same key"):
        generate(pipe, PROMPTS[:1] * 2, SEEDS, tmp_path)
    with pytest.raises(ValueError, match="takes no generator"):
        generate(lambda prompt: None, PROMPTS, SEEDS, tmp_path)


# --- prompts --------------------------------------------------------------------------------------------------------


def test_toybox_prompts_depend_on_seed_category_and_number_only():
    many, few = open_prompts("toybox-v1", 30, seed=1), open_prompts("toybox-v1", 9, seed=1)
    assert set(few) <= set(many) and len({p.key for p in many}) == len(many) == 30 * len(CATEGORIES)
    assert not {p.scene for p in few} & {
        p.scene for p in open_prompts("toybox-v1", 9, seed=2) if "held-out" not in p.key
    }
    assert open_prompts("toybox-v1/two-objects", 9, seed=1) == [p for p in few if p.category == "two objects"]


def test_each_toybox_category_has_scenes_of_its_kind():
    of = {c: [p for p in open_prompts("toybox-v1", 60, seed=3) if p.category == c] for c in CATEGORIES}
    things = {c: [t for p in prompts for t in p.scene.things] for c, prompts in of.items()}
    assert {t.attribute for t in things["colour"]} <= set(COLOURS) and {t.attribute for t in things["texture"]} <= set(
        TEXTURES
    )
    assert {t.count for t in things["counting"]} == {2, 3, 4}
    for category, prompts in of.items():
        assert {t.held_out for t in things[category]} == {category.startswith("held-out")}
        two = category in ("position", "two objects", "attribute binding", "held-out combination of two")
        assert {len(p.scene.things) for p in prompts} == {1 + two}
    assert {(t.attribute, t.kind) for t in things["held-out combination"]} == HELD_OUT


def test_paraphrases_of_a_scene_differ_in_wording_only():
    prompts = open_prompts("toybox-v1/paraphrase", 60)
    for i in range(0, 60, WORDINGS):
        scene = prompts[i : i + WORDINGS]
        assert len({p.text for p in scene}) == WORDINGS and len({p.scene for p in scene}) == 1
        assert scene[0].text == scene[0].scene.caption()
    assert len({p.scene for p in prompts}) == 60 // WORDINGS


def test_lecture_prompts_have_scenes_where_toybox_has_one():
    prompts = {p.text: p for p in open_prompts("lecture-v1")}
    assert prompts["a horse riding an astronaut"].scene is None
    assert prompts["an armchair in the shape of an avocado"].scene.things[0].held_out
    assert len(open_prompts("lecture-v1", 3)) == 3
    for p in prompts.values():
        words = [t.kind for t in p.scene.things] + [t.attribute for t in p.scene.things] if p.scene else []
        assert all(word in p.text for word in words)


def test_prompts_from_files(tmp_path):
    (tmp_path / "mine.txt").write_text("a red cat\r\n\n  ein Haus am See\u2028mit Boot \n", encoding="utf-8")
    assert [p.text for p in open_prompts(tmp_path / "mine.txt")] == ["a red cat", "ein Haus am See\u2028mit Boot"]
    rows = [{"prompt": "a cat"}, {"prompt": "a dog", "key": "dogs/1"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [p.key for p in open_prompts(tmp_path / "mine.jsonl")] == ["mine/0001", "dogs/1"]
    assert len(open_prompts(tmp_path / "mine.jsonl", 1)) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("toybx", None, "did you mean toybox"),
        ("toybox-v1/two-object", None, "did you mean toybox-v1/two-objects"),
        ("nowhere.txt", None, "no file of prompts"),
        ("empty.txt", "\n", "has no prompts"),
        ("bad.jsonl", '{"prompt": "a"}\n{"text": "b"}', "line 2"),
        ("twice.jsonl", '{"prompt": "a", "key": "k"}\n{"prompt": "b", "key": "k"}', "'k' 2 times"),
        ("toybox-v1", None, "num"),
    ],
)
def test_bad_prompts_raise_one_sentence(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_prompts(name)
    assert "\n" not in str(caught.value)


def test_processes_that_are_not_connected_raise(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # launched for GPUs that do not exist
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if torch.cuda.is_available():
        pytest.skip("there are GPUs to connect")
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU"):
        generate_on_all(pipe, PROMPTS, SEEDS, tmp_path)
    with pytest.raises(ValueError, match="not connected"):
        this_process()


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_images_and_scores_of_one(pipe, tmp_path):
    """Features, predictions and text embeddings included."""
    pipe.save_pretrained(tmp_path / "pipe")
    options = ["--prompts", "basic", "--num-images", "20", "--batch-size", "1", "--device", "cpu"]
    options += ["--clip", make_clip(tmp_path / "clip"), "--variant", "cosine", "--extractor", "random"]
    reports = []
    for processes, out in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        args = [str(tmp_path / "pipe"), *options, "--out", str(out)]
        command = launched(processes, "-m", "t2i.eval", *args)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=on_cpu)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report.html") == 1
        reports.append(json.loads((out / "report.json").read_text()))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()
    one, two = ({score["name"]: score for score in report["scores"]} for report in reports)
    assert one.keys() == two.keys() >= {"seen", "FD[random]", "CLIP score, cosine[clip:clip]", "nats/token, train"}
    for name, score in one.items():
        for key in ("value", "low", "high", "ceiling"):
            if score[key] is not None:
                assert two[name][key] == pytest.approx(score[key], rel=1e-6, abs=1e-9), name
    assert reports[0]["tables"] == reports[1]["tables"] and reports[0]["notes"] == reports[1]["notes"]


@pytest.mark.slow
def test_an_error_of_one_metric_ends_all_processes(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    args = [str(tmp_path / "pipe"), "--metrics", "fid", "--num-images", "9", "--out", str(tmp_path / "out")]
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launched(2, "-m", "t2i.eval", *args), capture_output=True, text=True, timeout=180, env=on_cpu)
    assert done.returncode != 0 and "too few to compare" in done.stderr
