"""The emulated device refuses what CUDA refuses, and computes the same results as the CPU."""

from __future__ import annotations

import emulated_device
import pytest
import torch
import torch.nn.functional as F
from emulated_device import MixedDevices, emulated

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not emulated_device.available(), reason="this version of torch cannot emulate a device"),
]
MIXED = {
    "sum": lambda x: x + torch.ones(3),
    "product": lambda x: x @ torch.ones(3, 3),
    "joined": lambda x: torch.cat([x, torch.ones(3, 3)]),
    "a number joined": lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
    "layer": lambda x: torch.nn.Linear(3, 3)(x),
    "embedding": lambda x: F.embedding(torch.tensor([0]), x),
    "CPU indexed by the device": lambda x: torch.ones(3)[x[0].long().clamp(0, 2)],
    "in place": lambda x: torch.ones(3, 3).add_(x),
    "generator": lambda x: torch.randn(2, generator=torch.Generator(), device="emulated"),
    "noise": lambda x: x.exponential_(generator=torch.Generator()),
    "choice": lambda x: torch.where(x > 0, x, torch.ones(3, 3)),
}


@pytest.mark.parametrize("what", MIXED)
def test_devices_may_not_mix(what):
    with emulated(), pytest.raises((MixedDevices, RuntimeError)):
        MIXED[what](torch.randn(3, 3, device="emulated"))


def test_what_cuda_allows():
    with emulated():
        x = torch.ones(3, 3, device="emulated")
        assert (x + torch.tensor(1.0)).device.type == "emulated"
        assert x[torch.tensor([0, 2])].sum() == 6 and x[[0, 2]].shape == (2, 3)
        x[torch.tensor([True, False, False])] = 0
        assert x.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]
        x[1].copy_(torch.full((3,), 5.0))
        assert torch.ones(3, 3).copy_(x).device.type == "cpu" and x.cpu()[1, 0] == 5
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()


def test_gradients_and_autocast_are_the_cpus():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 3), torch.randn(2, 3)
    layer(x).square().sum().backward()
    grad, layer.weight.grad = layer.weight.grad, None
    with emulated() as accelerator:
        layer.to("emulated")
        layer(x.to("emulated")).square().sum().backward()
        assert torch.allclose(layer.weight.grad.cpu(), grad)
        with torch.autocast("emulated", torch.bfloat16):
            assert layer(x.to("emulated")).dtype == torch.bfloat16
            assert x.to("emulated").cumsum(0).dtype == torch.float32
        before = accelerator.reads
        assert float(layer.weight.sum()) and accelerator.reads == before + 1
