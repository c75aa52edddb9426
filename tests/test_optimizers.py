"""Optimizers: parameter groups, update sizes, and two optimizers combined into one."""

from __future__ import annotations

import io

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from t2i.prior.transformer import TextImageTransformer
from t2i.training.config import LoopConfig
from t2i.training.muon import Muon
from t2i.training.optimizers import ChainedOptimizer, make_optimizer

MUON = LoopConfig(optimizer="muon", weight_decay=0.1)


def test_muon_updates_hidden_matrices_and_adamw_the_rest():
    model = TextImageTransformer(text_vocab_size=20, image_vocab_size=16, text_length=3, grid_size=2, width=8, heads=2)
    muon, adamw = make_optimizer(model, LoopConfig(optimizer="muon")).parts
    groups = [{id(p) for group in o.param_groups for p in group["params"]} for o in (muon, adamw)]
    by_muon = {name for name, p in model.named_parameters() if id(p) in groups[0]}
    hidden = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert by_muon == {f"blocks.{i}.{name}.weight" for i in range(6) for name in hidden}
    assert groups[1] == {id(p) for p in model.parameters()} - groups[0]
    assert isinstance(make_optimizer(model, LoopConfig(optimizer="adamw")), torch.optim.AdamW)


def test_muon_updates_hidden_kernels_but_not_the_first_and_last():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, bias=False), nn.Conv2d(16, 3, 3))
    muon, adamw = make_optimizer(model, LoopConfig(optimizer="muon")).parts
    assert muon.param_groups[0]["params"] == [model[1].weight]
    assert len(adamw.param_groups[0]["params"]) == 4


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_muon_equals_torchs_on_matrices(shape):
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    a = Muon([ours], lr=0.1, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_updates_a_kernel_as_a_matrix(layout):
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3).contiguous(memory_format=layout))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(8, 4, 3, 3).contiguous(memory_format=layout)
    matrix.grad = kernel.grad.flatten(1).clone()
    Muon([kernel]).step()
    Muon([matrix]).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    with pytest.raises(ValueError, match="matrices and kernels"):
        Muon([nn.Parameter(torch.randn(3))])


# --- two as one -----------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    """Two hidden matrices for Muon, two biases and a norm for AdamW."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8))


def walk(model: nn.Module, optimizer, steps: range, scaler: torch.amp.GradScaler | None = None) -> None:
    """As in the training loop: gradients of a scaled loss, unscaled and clipped, and a learning rate per step."""
    for step in steps:
        loss = model(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).square().mean()
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer.optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        optimizer.step()
        optimizer.zero_grad()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def accelerated(model: nn.Module, scaler: torch.amp.GradScaler | None) -> AcceleratedOptimizer:
    Accelerator()  # initialises its shared state
    return AcceleratedOptimizer(make_optimizer(model, MUON), scaler=scaler)


def test_chained_optimizers_step_as_separate_ones():
    ours, theirs = network(), network()
    matrices = [theirs[0].weight, theirs[2].weight]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    alone = Muon(matrices, 0.01, 0.1), torch.optim.AdamW(rest, 0.01, (0.9, 0.99), weight_decay=0.1, fused=True)
    walk(ours, make_optimizer(ours, MUON), range(1))
    theirs(torch.randn(4, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    for optimizer in alone:
        optimizer.step()
    assert same(ours, theirs)
    assert not any(same(part, start) for part, start in zip(ours, network(), strict=True))


def test_a_scaled_loss_gives_the_same_steps_and_one_scale_update_per_step():
    plain, scaled = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    walk(plain, accelerated(plain, None), range(4))
    walk(scaled, accelerated(scaled, scaler), range(4), scaler)
    assert same(plain, scaled)  # bit-identical: the scale is a power of two
    assert scaler.state_dict()["_growth_tracker"] == 1  # after 4 updates
    assert scaler.get_scale() == 2.0**17


@pytest.mark.parametrize("place", ["0.weight", "1.bias"])
def test_an_overflowing_gradient_skips_the_whole_step(place):
    model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = accelerated(model, scaler)
    with torch.no_grad():
        model.get_parameter(place).register_hook(lambda gradient: gradient * torch.inf)
    walk(model, optimizer, range(1), scaler)
    assert same(model, network())
    assert not optimizer.state
    assert optimizer.step_was_skipped
    assert scaler.get_scale() == 2.0**15


def test_a_loaded_optimizer_continues_as_the_saved_one():
    whole, resumed = network(), network()
    optimizer, file = make_optimizer(whole, MUON), io.BytesIO()
    walk(whole, optimizer, range(2))
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(whole.state_dict())
    again = make_optimizer(resumed, MUON)
    again.load_state_dict(torch.load(file, weights_only=True))
    for model, moves in ((whole, optimizer), (resumed, again)):
        walk(model, moves, range(2, 4))
    assert same(whole, resumed)


def test_each_parameter_has_one_optimizer():
    model = network()
    with pytest.raises(ValueError, match="more than one"):
        ChainedOptimizer(Muon([model[0].weight]), torch.optim.AdamW(model.parameters()))


def test_muon_without_hidden_matrices_raises():
    frozen = network().requires_grad_(False)
    for model in (nn.Embedding(4, 8), nn.Conv2d(3, 16, 3), frozen):
        with pytest.raises(ValueError, match=f"{type(model).__name__} trains none: set --optimizer adamw"):
            make_optimizer(model, MUON)
