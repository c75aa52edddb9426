"""Training with FSDP2: the same weights as without, in the same checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from launching import launched
from safetensors.torch import load_file
from sharded_worker import as_stopped, train_in_bf16, train_prior
from test_training import losses, trained_vqvae, vqvae_recipe  # noqa: F401

from t2i.manifest import damage
from t2i.pipelines import AutoPipeline
from t2i.training.config import LoopConfig
from t2i.training.recipes import RECIPES
from t2i.training.sharding import check_sharding

OPTIMIZERS = ("adamw", "muon")
WEIGHTS = Path("prior", "diffusion_pytorch_model.safetensors")  # the averaged ones


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained_vqvae) -> Path:  # noqa: F811
    """The runs of `sharded_worker`, by two processes, and the same ones of one."""
    root, tokenizer = tmp_path_factory.mktemp("sharded"), str(trained_vqvae)
    for optimizer in OPTIMIZERS:
        train_prior(root / f"{optimizer}-one", tokenizer, optimizer)
    train_in_bf16(root / "bf16-one", tokenizer)
    worker = str(Path(__file__).with_name("sharded_worker.py"))
    command = launched(2, worker, str(root), tokenizer, sharded=True)
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=on_cpu)
    assert done.returncode == 0, done.stderr[-5000:]
    train_prior(as_stopped(root / "muon-sharded", root / "muon-sharded-then-one"), tokenizer, "muon", resume="latest")
    return root


def difference(a: Path, b: Path) -> float:
    """The largest relative difference, in norm, of a tensor in two safetensors files."""
    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).norm() / one[k].norm()) for k in one if one[k].is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_sharded_processes_train_the_weights_of_one(runs, optimizer):
    whole = runs / f"{optimizer}-one" / "latest"
    assert difference(whole / WEIGHTS, runs / f"{optimizer}-sharded" / "latest" / WEIGHTS) < 1e-6
    assert losses(runs / f"{optimizer}-sharded") == pytest.approx(losses(runs / f"{optimizer}-one"), rel=1e-6)
    start = runs / f"{optimizer}-one" / "checkpoint-2" / WEIGHTS
    assert difference(whole / WEIGHTS, start) > 1e-3  # the steps are large enough to tell


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sharded-then-sharded", "sharded-then-one", "one-then-sharded"])
def test_a_run_resumed_by_any_number_of_processes_is_one_that_never_stopped(runs, how):
    """With Muon, and AdamW for the parameters that are no matrices."""
    folder = runs / f"muon-{how}" / "latest"
    assert difference(runs / "muon-one" / "latest" / WEIGHTS, folder / WEIGHTS) < 1e-6
    if how == "sharded-then-sharded":
        assert (runs / "muon-sharded" / "latest" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_each_process_stores_its_parts_and_the_pipeline_is_whole(runs):
    folder = runs / "muon-sharded" / "latest"
    parts = [load_file(path) for path in sorted((folder / "state").glob("*.safetensors"))]
    assert len(parts) == 2 and damage(folder, resuming=True) is None
    whole = load_file(runs / "muon-one" / "latest" / WEIGHTS)
    for kind in ("model", "ema", "optimizer"):
        sizes = [sum(x.numel() for name, x in part.items() if name.startswith(kind)) for part in parts]
        assert min(sizes) > 0.4 * sum(sizes), kind  # a half, but for tensors with an odd number of rows
    elements = sum(x.numel() for part in parts for name, x in part.items() if name.startswith("ema."))
    assert elements == sum(x.numel() for x in whole.values())
    assert not [
        path for path in folder.rglob("*") if path.suffix in {".pkl", ".bin", ".pt"} or path.name == ".metadata"
    ]
    plain = AutoPipeline.from_pretrained(runs / "muon-one").prior.state_dict()
    sharded = AutoPipeline.from_pretrained(runs / "muon-sharded").prior.state_dict()
    assert all(torch.allclose(sharded[name], x, rtol=1e-6) for name, x in plain.items())
    assert (runs / "muon-sharded" / "samples" / "step-000004.png").is_file()


@pytest.mark.slow
def test_sharded_weights_stay_float32_under_autocast(runs):
    for path in (runs / "bf16-sharded" / "latest" / "state").glob("*.safetensors"):
        assert {x.dtype for x in load_file(path).values()} == {torch.float32}
    assert losses(runs / "bf16-sharded") == pytest.approx(losses(runs / "bf16-one"), rel=1e-2)


# --- configurations -------------------------------------------------------------------------------------------------

CONFIGS = sorted((Path(__file__).parents[1] / "scripts" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_those_of_accelerate_and_are_not_refused(path, monkeypatch, tmp_path):
    config = load_config_from_file(str(path))
    assert (config.distributed_type == "FSDP") == bool(config.fsdp_config) == (path.stem in ("fsdp", "two_nodes"))
    assert config.num_processes == {"one_gpu": 1, "ddp": 8, "fsdp": 8, "two_nodes": 16}[path.stem]
    monkeypatch.setenv("WORLD_SIZE", str(config.num_processes))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(bool(config.fsdp_config)).lower())
    for name, value in config.fsdp_config.items():
        monkeypatch.setenv(name.upper(), str(value).lower())
    check_sharding(vqvae_recipe(tmp_path).task(), LoopConfig(), Accelerator())


@pytest.mark.slow
def test_a_configuration_launches_sharded_training(tmp_path):
    config = str(next(path for path in CONFIGS if path.stem == "fsdp"))
    launch = ["-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    work = ["-m", "t2i.training", "nice", "--preset", "tiny", "--dry-run"]
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launch, "--main_process_port", "0", *work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=on_cpu)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gathered weights and gradients" in done.stdout and "images/s" in done.stdout
    assert done.stdout.count("images/s") == 1  # by the main process


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded_launch(monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FSDP_VERSION", "1", r"FSDP1 is not supported: launch with --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params is not supported: set it to false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing .* use --gradient-checkpointing"),
    ],
)
def test_options_of_the_launcher_without_effect_are_refused(sharded_launch, tmp_path, variable, value, says):
    task, accelerator = vqvae_recipe(tmp_path).task(), Accelerator()
    check_sharding(task, LoopConfig(), accelerator)
    sharded_launch.setenv(variable, value)
    with pytest.raises(ValueError, match=says):
        check_sharding(task, LoopConfig(), accelerator)
    sharded_launch.setenv("WORLD_SIZE", "1")  # nothing is sharded
    check_sharding(task, LoopConfig(), accelerator)


def test_models_that_cannot_be_sharded_are_refused(sharded_launch, tmp_path):
    accelerator = Accelerator()
    clip = RECIPES["clip-toybox"]("tiny").task()
    with pytest.raises(ValueError, match=r"CLIPModel has the scalar logit_scale, which FSDP cannot shard: .*multi_gpu"):
        check_sharding(clip, LoopConfig(), accelerator)
    with pytest.raises(ValueError, match="--async-save is not supported with FSDP"):
        check_sharding(vqvae_recipe(tmp_path).task(), LoopConfig(async_save=True), accelerator)
    with pytest.raises(ValueError, match="--compile is not supported with FSDP"):
        check_sharding(vqvae_recipe(tmp_path).task(), LoopConfig(compile=True), accelerator)
    classifier = RECIPES["toybox-classifier"]("tiny").task()
    with pytest.raises(ValueError, match="does not use all its weights in every step"):
        check_sharding(classifier, LoopConfig(), accelerator)
