"""Memory of training: the arithmetic, dry runs, and batches that are too large."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import diffusion_parts
import pytest
import torch
from test_training import losses, recipe
from torch import nn

from t2i.checks import UsageError
from t2i.training.averages import AveragedWeights
from t2i.training.cli import main
from t2i.training.config import LoopConfig
from t2i.training.dry_run import frozen_memory
from t2i.training.loop import train
from t2i.training.memory import activation_memory, checkpoint_memory, training_memory
from t2i.training.micro_batches import DoesNotFit, split
from t2i.training.optimizers import make_optimizer

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import scaling  # beside this project's packages


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_arithmetic_counts_what_torch_holds(name):
    model = network()
    model[0].bias.requires_grad_(False)
    optimizer, averages = make_optimizer(model, LoopConfig(optimizer=name)), AveragedWeights(model.parameters(), 0.9)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    state = [x for values in optimizer.state.values() for x in values.values() if x.ndim]
    memory = training_memory(model, name)
    assert memory["weights"] == sum(p.nbytes for p in model.parameters())
    assert memory["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert memory["optimizer state"] == sum(x.nbytes for x in state)
    own = [a for a, p in zip(averages.averages, model.parameters(), strict=True) if a.data_ptr() != p.data_ptr()]
    assert memory["averages"] == sum(a.nbytes for a in own)
    with torch.device("meta"):
        assert training_memory(network(), name).keys() == memory.keys()


def test_shards_share_the_state_and_copies_do_not():
    with torch.device("meta"):
        model = nn.Linear(1024, 1024, bias=False)
    one, copies, shards = (
        training_memory(model, "adamw", processes, sharded)
        for processes, sharded in ((1, False), (8, False), (8, True))
    )
    assert one == {name: copies[name] for name in one} and copies["buckets of gradients"] == one["gradients"]
    assert all(shards[name] * 8 == one[name] for name in one)
    assert checkpoint_memory(model, sharded=True) == one["weights"]
    with torch.device("meta"):
        assert training_memory(nn.Linear(5, 9, bias=False), "adamw", 2, True)["weights"] == 5 * 5 * 4  # 9 rows: 5 and 4


def test_activations_are_those_that_the_backward_pass_needs():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

        def forward(self, x):
            return {"loss": self.model(x).square().mean()}

    each, besides = activation_memory(Loss(), {"x": torch.randn(3, 4)})
    assert each == 4 * (4 + 8 + 8 + 1)  # the input, before and after GELU, the output
    assert besides == 0


def test_the_tables_of_scaling_extrapolate_to_what_deeper_models_keep():
    family = scaling.denoiser()
    with torch.autocast("cpu", torch.bfloat16):
        three = activation_memory(scaling.Objective(family.build(64, 3), family.loss), family.batch)[0]
    assert scaling.activations(family, 64, 3)[0] == three


# --- dry runs -------------------------------------------------------------------------------------------------------

TINY = ["nice", "--preset", "tiny", "--dataloader-num-workers", "0", "--report-to", "none"]


def test_a_dry_run_prints_what_a_run_needs_and_writes_nothing(tmp_path, capsys):
    main([*TINY, "--train-batch-size", "6", "--output-dir", str(tmp_path / "run"), "--dry-run"])
    printed = capsys.readouterr().out
    for word in (
        "parameters",
        "6×",
        "weights",
        "optimizer state",
        "activations of 6 images",
        "images/s",
        "peak memory",
    ):
        assert word in printed, word
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("room", "says"),
    [
        (999, r"the run does not fit: without activations it needs .*; shard it over more processes"),
        (63_999, r"does not fit: set --train-batch-size 32 --gradient-accumulation-steps 2, the same global batch"),
        (1_999, r"does not fit: not even one image does; set --gradient-checkpointing"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_the_remedy(room, says, tmp_path, monkeypatch):
    """A thousand bytes of state, and a thousand for each of 64 images."""
    parts = {"training_memory": {"weights": 1000}, "checkpoint_memory": 0, "activation_memory": (1000, 0)}
    for name, value in (parts | {"available_memory": room}).items():
        monkeypatch.setattr(f"t2i.training.dry_run.{name}", lambda *_, value=value: value)
    with pytest.raises(UsageError, match=says):
        main([*TINY, "--train-batch-size", "64", "--output-dir", str(tmp_path / "run"), "--dry-run"])


# --- out of memory --------------------------------------------------------------------------------------------------


def limited(task, fits: int = 2):
    """The task, on a device in which only `fits` images fit."""
    loss = task.loss

    def checked(**batch):
        if len(next(iter(batch.values()))) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(**batch)

    task.loss = checked
    return task


def nice(folder, **options):
    return recipe("nice", folder, {"width": 8, "hidden": 1}, train_batch_size=7, **options)


def test_a_step_that_does_not_fit_is_computed_in_pieces(tmp_path, capsys):
    whole, pieces = nice(tmp_path / "whole"), nice(tmp_path / "pieces")
    train(whole.task(), whole.loop, {})
    train(limited(pieces.task()), pieces.loop, {})
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    said = capsys.readouterr().err
    assert "out of memory; 4 images at once instead of 7" in said and "2 images at once instead of 7" in said
    assert said.count("out of memory") == 2  # and never again
    shares = [(len(piece["x"]), share) for piece, share in split({"x": torch.zeros(7, 3)}, 4)]
    assert shares == [(4, 4 / 7), (3, 3 / 7)]


def test_where_not_even_one_image_fits_that_is_said(tmp_path):
    made = nice(tmp_path / "run")
    with pytest.raises(DoesNotFit, match="not even one image fits; set --gradient-checkpointing"):
        train(limited(made.task(), fits=0), made.loop, {})


def test_a_model_with_statistics_is_not_tried_again(tmp_path):
    """A codebook's moving averages would count the batch twice."""
    small = {"channels": (8, 8, 16), "encoder_blocks": (0, 0, 0), "decoder_blocks": (0, 0, 0), "codebook_size": 16}
    made = recipe("vqvae-toybox", tmp_path / "run", small | {"patch": 2}, train_batch_size=8)
    says = "with --train-batch-size 4 --gradient-accumulation-steps 2, the same global batch"
    with pytest.raises(DoesNotFit, match=says):
        train(limited(made.task()), made.loop, {})


def test_frozen_networks_are_counted_and_trained_ones_are_not(tmp_path):
    autoencoder, clip = diffusion_parts.save_stages(tmp_path)
    tiny = {"channels": (16, 16), "head_width": 8, "norm_groups": 8}
    made = recipe("ldm-toybox", tmp_path / "run", tiny, autoencoder=autoencoder, text_encoder=clip, cache="none")
    task, both = made.task(), dataclasses.replace(made, train_text_encoder=True).task()
    networks = (task.autoencoder, task.encoder.model)
    assert frozen_memory(task) == sum(p.nbytes for module in networks for p in module.parameters())
    assert frozen_memory(both) == sum(p.nbytes for p in both.autoencoder.parameters())


def test_a_dry_run_leaves_no_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    autoencoder, clip = diffusion_parts.save_stages(tmp_path / "stages")
    before = set(tmp_path.rglob("*"))
    how = ["--autoencoder", autoencoder, "--text-encoder", clip, "--channels", "16", "16", "--head-width", "8"]
    how += ["--norm-groups", "8", "--train-batch-size", "2", "--max-train-steps", "1", "--held-out-images", "0"]
    main(["ldm-toybox", "--preset", "tiny", *how, "--dataloader-num-workers", "0", "--report-to", "none", "--dry-run"])
    assert "frozen networks" in capsys.readouterr().out
    assert set(tmp_path.rglob("*")) == before
