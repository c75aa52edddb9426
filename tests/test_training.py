"""The training loop, on the real recipes at tiny size."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from launching import launched
from PIL import Image

from t2i.data.sampling import NumberBatches
from t2i.data.sources import open_source
from t2i.data.toybox_v1 import export
from t2i.files import read_json
from t2i.images import to_tensor
from t2i.pipelines import AutoPipeline
from t2i.text.bpe import encode
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.cli import run
from t2i.training.config import LoopConfig, flatten
from t2i.training.finite import NonFiniteLoss
from t2i.training.held_out import RIGHT, loaded
from t2i.training.log import plot_curves
from t2i.training.loop import learning_rate
from t2i.training.recipes import RECIPES
from t2i.training.reference import reference_curves, store_reference

TINY_VQVAE = {"channels": (8, 8, 16), "encoder_blocks": (0, 0, 0), "decoder_blocks": (0, 0, 0), "codebook_size": 64}
TINY_VQVAE |= {"patch": 2}
TINY_PRIOR = {"width": 32, "layers": 1, "heads": 2}


def recipe(name: str, folder: Path, model: dict, **options):
    """The recipe's tiny preset, made even smaller."""
    tiny = RECIPES[name]("tiny")
    if hasattr(tiny, "data"):  # a classifier renders images itself
        tiny = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, image_size=64))
    loop = {"max_train_steps": 6, "train_batch_size": 4, "checkpointing_steps": 3, "dataloader_num_workers": 0}
    fields = {f.name for f in dataclasses.fields(tiny)}
    options = ({"held_out_images": 2} if "held_out_images" in fields else {}) | options
    own = fields & options.keys()
    loop |= {k: v for k, v in options.items() if k not in own}
    return dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, **model),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **loop),
        **{k: options[k] for k in own},
    )


def vqvae_recipe(folder: Path, **options):
    return recipe("vqvae-toybox", folder, TINY_VQVAE | {"warmup_batches": 1}, **options)


@pytest.fixture(scope="module")
def trained_vqvae(tmp_path_factory) -> Path:
    return run(vqvae_recipe(tmp_path_factory.mktemp("runs") / "vqvae"))


@pytest.fixture
def prior_recipe(trained_vqvae):
    def make(folder: Path, model: dict = TINY_PRIOR, **options):
        return recipe("prior-toybox", folder, model, **{"tokenizer": str(trained_vqvae), **options})

    return make


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_checkpoints_open_with_from_pretrained(trained_vqvae, prior_recipe, tmp_path):
    assert trained_vqvae.name == "checkpoint-6"
    assert (trained_vqvae.parent / "latest").resolve() == trained_vqvae.resolve()
    assert VQVAE.from_pretrained(trained_vqvae).config.codebook_size == 64
    checkpoint = run(prior_recipe(tmp_path / "prior"))
    pipe = AutoPipeline.from_pretrained(checkpoint)
    assert pipe("a red cat").images[0].size == (64, 64)
    kept = {p.suffix for p in (tmp_path / "prior").rglob("*") if p.is_file()}
    assert {".safetensors", ".png", ".jsonl"} <= kept
    assert (tmp_path / "prior" / "samples" / "step-000006.png").is_file()
    assert (tmp_path / "prior" / "curves.png").is_file()


def test_the_held_out_loss_of_a_prior_is_that_of_its_training(prior_recipe, tmp_path, capsys):
    """By row of the image; with the captions of other images it is another."""
    made = prior_recipe(tmp_path / "prior", held_out_images=5)
    scores = read_json(run(made) / "scores.json")["held_out"]
    assert "held-out loss, row from" in capsys.readouterr().out
    pipe = AutoPipeline.from_pretrained(tmp_path / "prior")
    images, captions = loaded(made.task().held_out)
    assert scores["images"] == len(captions) == 5 and scores["rows"] == [0, 2, 4, 6]
    codes = pipe.image_tokenizer.encode(to_tensor(images)).flatten(1)
    text = encode(pipe.tokenizer, captions, pipe.prior.config.text_length).ids
    with torch.no_grad():
        parts, other = pipe.prior.loss(text, codes), pipe.prior.loss(text.roll(1, 0), codes)
    assert scores["loss"][RIGHT] == pytest.approx(parts["image"].item(), abs=1e-4)
    assert scores["loss"]["captions of other images"] == pytest.approx(other["image"].item(), abs=1e-4)
    assert scores["captions"] == pytest.approx(parts["text"].item(), abs=1e-4)
    assert not (run(prior_recipe(tmp_path / "none", held_out_images=0)) / "scores.json").exists()


def test_curves_show_a_metric_that_some_steps_lack(tmp_path):
    lines = [{"step": i, "images": i, "loss": 1.0 / i} | ({"text": 0.5} if i % 3 == 0 else {}) for i in range(1, 10)]
    plot_curves(lines, tmp_path / "both.png")
    plot_curves([{k: v for k, v in line.items() if k != "text"} for line in lines], tmp_path / "one.png")
    both, one = (Image.open(tmp_path / f"{name}.png") for name in ("both", "one"))
    assert np.asarray(both).std() > np.asarray(one).std(), "a second panel"


def test_a_run_shows_the_reference_of_its_recipe_where_the_options_agree(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i.training.reference.FOLDER", tmp_path / "reference")
    made = vqvae_recipe(tmp_path / "first", max_train_steps=40, checkpointing_steps=40)
    run(made, "vqvae-toybox")
    lines = [json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    assert not reference_curves(flatten(made))
    store_reference(tmp_path / "first", tmp_path / "reference")

    named = {"recipe": "vqvae-toybox"} | flatten(made)
    images, values = reference_curves(named)["loss"]
    losses = {line["images"]: line["loss"] for line in lines}
    assert images[0] == 4 and images[-1] == 160 and len(images) > 20
    assert values == pytest.approx([losses[n] for n in images], rel=1e-3)  # fewer than 100: not averaged
    other_loop = dataclasses.replace(made, loop=dataclasses.replace(made.loop, learning_rate=1.0, output_dir="other"))
    assert reference_curves({"recipe": "vqvae-toybox"} | flatten(other_loop))
    wider = dataclasses.replace(made, model=dataclasses.replace(made.model, channels=(16, 16, 16)))
    assert not reference_curves({"recipe": "vqvae-toybox"} | flatten(wider))
    newer = {"new_option": 1}
    assert reference_curves(named | newer, newer) and not reference_curves(named | newer, {"new_option": 2})

    plot_curves(lines, tmp_path / "alone.png")
    plot_curves(lines, tmp_path / "both.png", reference_curves(named))
    both, alone = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("both", "alone"))
    dashes = np.abs(both.astype(int) - (0xB3, 0x54, 0x1E)).sum(-1) < 60
    assert dashes.any() and not (np.abs(alone.astype(int) - (0xB3, 0x54, 0x1E)).sum(-1) < 60).any()


def test_saved_weights_are_the_averaged_ones(tmp_path):
    from safetensors.torch import load_file

    folder = run(vqvae_recipe(tmp_path / "run"))
    saved = load_file(folder / "diffusion_pytorch_model.safetensors")
    trained = load_file(folder / "state" / "model.safetensors")
    averaged = load_file(folder / "state" / "ema.safetensors")
    model = VQVAE.from_pretrained(folder)
    names = [n for n, _ in model.named_parameters()]
    assert all(torch.equal(saved[n], averaged[f"ema.{n}"]) for n in names)
    assert any(not torch.equal(saved[n], trained[f"model.{n}"]) for n in names)


@pytest.mark.parametrize("stage", ["vqvae", "prior"])
def test_a_resumed_run_is_one_that_never_stopped(stage, prior_recipe, tmp_path):
    make = vqvae_recipe if stage == "vqvae" else partial(prior_recipe, model=TINY_PRIOR | {"dropout": 0.2})
    how = {"max_train_steps": 8, "checkpointing_steps": 4, "dataloader_num_workers": 1}
    run(make(tmp_path / "whole", **how))
    run(make(tmp_path / "parts", **how))
    # As after a kill after the first checkpoint: later lines of the log, half a checkpoint.
    parts = tmp_path / "parts"
    (parts / "checkpoint-8").rename(parts / ".checkpoint-8.part")
    with (parts / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    run(make(parts, **how, resume="latest"))
    assert losses(parts) == losses(tmp_path / "whole")
    for file in ("model", "ema"):
        weights = [p / "checkpoint-8" / "state" / f"{file}.safetensors" for p in (tmp_path / "whole", parts)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def command(*args: str, processes: int = 1, workers: int = 0) -> list[str]:
    options = ["--report-to", "none", "--dataloader-num-workers", str(workers), "--preset", "tiny"]
    return launched(processes, "-m", "t2i.training", *args, *options)


@pytest.mark.parametrize("name", ["prior-toybox", "muse-toybox"])
def test_cached_codes_train_as_those_of_each_batch_do(name, trained_vqvae, tmp_path):
    data = export(tmp_path / "boxes", 8)
    found = []
    for cache in ("none", str(tmp_path / "codes"), str(tmp_path / "codes")):
        options = {"tokenizer": str(trained_vqvae), "cache": cache}
        made = recipe(name, tmp_path / f"run{len(found)}", TINY_PRIOR, **options)
        run(dataclasses.replace(made, data=dataclasses.replace(made.data, data=str(data))))
        found.append(losses(tmp_path / f"run{len(found)}"))
    assert found[0] == found[1] == found[2]
    assert np.load(tmp_path / "codes" / "codes.npy").dtype == np.uint16
    other = VQVAE.from_pretrained(trained_vqvae)
    other.quantizer.codebook += 1
    other.save_pretrained(tmp_path / "other")
    changed = dataclasses.replace(made, tokenizer=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"image_tokenizer_sha256.*give another folder with --cache"):
        dataclasses.replace(changed, data=dataclasses.replace(made.data, data=str(data))).task()


def test_a_killed_run_resumes_to_the_same_losses(tmp_path):
    sizes = ["--train-batch-size", "4", "--max-train-steps", "12", "--checkpointing-steps", "4"]
    args = command("vqvae-toybox", *sizes, "--output-dir", str(tmp_path / "killed"))
    whole = command("vqvae-toybox", *sizes, "--output-dir", str(tmp_path / "whole"))
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 6):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*args, "--resume", "latest"], check=True, capture_output=True)
    subprocess.run(whole, check=True, capture_output=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_ctrl_c_saves_a_checkpoint_and_prints_how_to_resume(tmp_path):
    """Sent to the whole process group, data worker included, as a terminal does."""
    sizes = ["--train-batch-size", "4", "--max-train-steps", "100000", "--checkpointing-steps", "100000"]
    args = command("vqvae-toybox", *sizes, "--output-dir", str(tmp_path / "run"), workers=1)
    process = subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 2):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "resume with --resume latest" in said
    assert process.returncode == 0
    steps = len(losses(tmp_path / "run"))
    assert (tmp_path / "run" / f"checkpoint-{steps}" / "config.json").is_file()


def test_two_processes_with_half_the_batch_train_as_one(tmp_path):
    runs = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        sizes = ["--train-batch-size", str(8 // processes), "--max-train-steps", "5", "--warmup-batches", "1"]
        args = command("vqvae-toybox", *sizes, "--output-dir", str(folder), processes=processes)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
        subprocess.run(args, check=True, capture_output=True, timeout=120, env=on_cpu)
        runs[processes] = losses(folder)
    assert np.allclose(runs[1], runs[2], rtol=1e-3)


def test_processes_that_are_not_connected_are_refused(prior_recipe, tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there are GPUs to connect")
    monkeypatch.setenv("WORLD_SIZE", "2")  # launched for GPUs that do not exist
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(ValueError, match="set ACCELERATE_USE_CPU=true"):
        run(prior_recipe(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_accumulated_gradients_are_those_of_the_whole_batch(prior_recipe, tmp_path):
    run(prior_recipe(tmp_path / "whole", train_batch_size=4))
    run(prior_recipe(tmp_path / "parts", train_batch_size=2, gradient_accumulation_steps=2))
    assert np.allclose(losses(tmp_path / "whole"), losses(tmp_path / "parts"), rtol=1e-4)


def test_every_sample_number_is_seen_once_whatever_the_processes():
    def numbers(batch, accumulation, world):
        ranks = [list(NumberBatches(2, 4, batch, accumulation, r, world)) for r in range(world)]
        return [n for step in zip(*ranks, strict=True) for block in step for n in block]

    assert numbers(8, 1, 1) == numbers(4, 1, 2) == numbers(2, 2, 2) == list(range(16, 32))


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains(precision, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)  # a process keeps its precision unless the state is reset
    run(vqvae_recipe(tmp_path / "half", mixed_precision=precision, gradient_checkpointing=True))
    AcceleratorState._reset_state(reset_partial_state=True)
    run(vqvae_recipe(tmp_path / "full"))
    assert np.allclose(losses(tmp_path / "half"), losses(tmp_path / "full"), rtol=0.05)
    assert losses(tmp_path / "half") != losses(tmp_path / "full")


def test_only_the_newest_checkpoints_stay(tmp_path):
    run(vqvae_recipe(tmp_path / "run", checkpointing_steps=1, checkpoints_total_limit=2))
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    assert not list((tmp_path / "run").glob(".checkpoint*"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = vqvae_recipe(
        tmp_path / "run", learning_rate=1e30, max_train_steps=20, checkpointing_steps=1, lr_warmup_steps=4
    )
    with pytest.raises(
        NonFiniteLoss, match=r"at step \d+ the loss is .*resume from the last checkpoint, .*checkpoint-"
    ):
        run(wild)
    weights = VQVAE.from_pretrained(tmp_path / "run" / "latest").parameters()
    assert all(w.isfinite().all() for w in weights)


def test_an_old_run_is_not_written_over_nor_resumed_as_another(tmp_path):
    run(vqvae_recipe(tmp_path / "run"))
    with pytest.raises(FileExistsError, match="--resume latest"):
        run(vqvae_recipe(tmp_path / "run"))
    other = recipe("vqvae-toybox", tmp_path / "run", TINY_VQVAE | {"code_width": 8}, resume="latest")
    with pytest.raises(ValueError, match=r"code_width: 16 -> 8"):
        run(other)
    with pytest.raises(ValueError, match="global batch of 4, not 6"):
        run(vqvae_recipe(tmp_path / "run", resume="latest", train_batch_size=6))
    with pytest.raises(ValueError, match="not the newest"):
        run(vqvae_recipe(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-3")))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run(vqvae_recipe(tmp_path / "new", resume="latest"))


def test_a_prior_is_not_resumed_on_another_tokenizer(prior_recipe, tmp_path):
    run(prior_recipe(tmp_path / "prior"))
    other = run(vqvae_recipe(tmp_path / "vqvae", seed=5))
    with pytest.raises(ValueError, match="image_tokenizer_sha256"):
        run(prior_recipe(tmp_path / "prior", tokenizer=str(other), resume="latest"))


def test_a_missing_or_wrong_first_stage_raises_with_the_command_that_trains_it(prior_recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="t2i train vqvae-toybox"):
        run(prior_recipe(tmp_path / "prior", tokenizer=str(tmp_path / "nothing")))
    (tmp_path / "config.json").write_text('{"_class_name": "TextImageTransformer"}')
    with pytest.raises(ValueError, match="which is no image tokenizer; make one with: t2i train vqvae-toybox"):
        run(prior_recipe(tmp_path / "prior", tokenizer=str(tmp_path)))


def test_learning_rate_warms_up_and_falls():
    config = LoopConfig(max_train_steps=100, lr_warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert np.allclose(rates[:10], np.arange(1, 11) / 10)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.01)


@pytest.fixture
def picture_folder(tmp_path) -> Path:
    """Eight discs, with unusual column names, one image transparent and one not square."""
    folder = tmp_path / "discs"
    folder.mkdir()
    lines = []
    for i in range(8):
        mode, size = ("RGBA", (40, 40)) if i == 0 else ("RGB", (50, 40) if i == 1 else (40, 40))
        Image.new(mode, size, (20 * i, 200, 100, 0)[: len(mode)]).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "title": f"disc number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_both_stages_train_on_a_folder_of_pictures(picture_folder, tmp_path):
    data = dataclasses.replace(RECIPES["vqvae-toybox"]("tiny").data, data=str(picture_folder), caption_column="title")
    first = run(vqvae_recipe(tmp_path / "vqvae", data=data))
    second = run(recipe("prior-toybox", tmp_path / "prior", TINY_PRIOR, tokenizer=str(first), data=data))
    assert AutoPipeline.from_pretrained(second)("disc number 3").images[0].size == (64, 64)


def test_pictures_are_squared_and_transparency_is_white(picture_folder):
    source = open_source(str(picture_folder), 32, caption_column="title")
    assert (source[0]["image"] == 255).all()
    assert source[1]["image"].shape == (32, 32, 3)
    assert list(source.captions(2)) == ["disc number 0", "disc number 1"]
    with pytest.raises(ValueError, match=r"no column 'text' but: .*title.*--caption-column"):
        open_source(str(picture_folder), 32)


def test_folders_that_are_none_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no images in"):
        open_source(str(tmp_path), 32)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_source("./nowhere", 32)


def test_real_emoji_train_both_stages(shared_data, tmp_path):
    data = dataclasses.replace(RECIPES["vqvae-toybox"]("tiny").data, data=str(shared_data / "noto-emoji"))
    first = run(vqvae_recipe(tmp_path / "vqvae", data=data))
    second = run(recipe("prior-toybox", tmp_path / "prior", TINY_PRIOR, tokenizer=str(first), data=data))
    assert AutoPipeline.from_pretrained(second)("red apple").images[0].size == (64, 64)
