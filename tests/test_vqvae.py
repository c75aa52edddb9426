"""The VQ-VAE and its quantizer."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from t2i.tokenizers.quantizer import EMAQuantizer
from t2i.tokenizers.vqvae import VQVAE


def images(n: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size) * 2 - 1


def test_quantizer_picks_the_nearest_code():
    quantizer = EMAQuantizer(20, 5).eval()
    z = torch.randn(50, 5)
    brute = (z[:, None] - quantizer.codebook).square().sum(-1).argmin(1)
    quantized, codes, commitment = quantizer(z)
    assert torch.equal(codes, brute)
    assert torch.allclose(quantized, quantizer.codebook[brute], atol=1e-6)
    assert torch.allclose(commitment, (z - quantizer.codebook[brute]).square().mean())


def test_gradient_passes_straight_through():
    quantizer = EMAQuantizer(20, 5).eval()
    z = torch.randn(50, 5, requires_grad=True)
    weight = torch.randn(50, 5)
    (quantizer(z)[0] * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_commitment_moves_the_encoder_only():
    quantizer = EMAQuantizer(20, 5).eval()
    z = torch.randn(50, 5, requires_grad=True)
    quantizer(z)[2].backward()
    nearest = quantizer.codebook[quantizer.nearest(z)]
    assert torch.allclose(z.grad, 2 * (z.detach() - nearest) / z.numel(), atol=1e-7)
    assert not any(p.requires_grad for p in quantizer.parameters())


def test_codes_follow_the_vectors():
    """On vectors in four clusters, the moving averages converge to the four means."""
    centres = torch.randn(4, 3) * 5
    quantizer = EMAQuantizer(4, 3, decay=0.9, kmeans_batches=1).train()
    for _ in range(60):
        quantizer(centres[torch.randint(4, (256,))] + 0.1 * torch.randn(256, 3))
    distance = torch.cdist(centres, quantizer.codebook).min(1).values
    assert distance.max() < 0.05
    assert quantizer.perplexity() > 3.8
    assert quantizer.share_used() == 1


def test_dead_codes_are_revived_with_fresh_statistics():
    quantizer = EMAQuantizer(8, 2, decay=0.5, kmeans_batches=0).train()
    quantizer.codebook[0] = 1000.0  # no vector is near
    quantizer.total[0] = 1000.0
    for _ in range(10):
        z = torch.randn(64, 2)
        quantizer(z)
    assert quantizer.codebook.abs().max() < 10
    assert torch.allclose(quantizer.codebook[0], quantizer.total[0] / quantizer.count[0], rtol=1e-3)
    assert quantizer.count.min() > 0


def test_warm_up_lets_vectors_through():
    quantizer = EMAQuantizer(8, 2, warmup_batches=2, kmeans_batches=1).train()
    before = quantizer.codebook.clone()
    for _ in range(2):
        z = torch.randn(64, 2)
        assert torch.equal(quantizer(z)[0], z)
    assert torch.equal(quantizer.codebook, before)
    z = torch.randn(64, 2)
    assert not torch.equal(quantizer(z)[0], z)


def test_evaluation_changes_nothing(vqvae):
    before = {name: x.clone() for name, x in vqvae.state_dict().items()}
    vqvae.loss(images())
    assert all(torch.equal(x, before[name]) for name, x in vqvae.state_dict().items())


def test_shapes_and_ranges(vqvae):
    codes = vqvae.encode(images(3))
    assert codes.shape == (3, 4, 4)
    assert 0 <= codes.min() <= codes.max() < 32
    decoded = vqvae.decode(codes)
    assert decoded.shape == (3, 3, 16, 16)
    assert decoded.abs().max() <= 1


def test_one_image_is_encoded_as_in_a_batch(vqvae):
    batch = images(4)
    assert torch.equal(vqvae.encode(batch)[2:3], vqvae.encode(batch[2:3]))


def test_gradient_reaches_every_parameter(vqvae):
    for parameter in vqvae.parameters():  # the blocks' last convolutions are zero-initialised and hide earlier layers
        torch.nn.init.normal_(parameter, std=0.2)
    vqvae.train().loss(images(4))["loss"].backward()
    assert [n for n, p in vqvae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_lowers_the_loss(vqvae):
    vqvae.train()
    batch = images(8) * 0.1 + torch.linspace(-0.8, 0.8, 8)[:, None, None, None]
    optimizer = torch.optim.Adam(vqvae.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = vqvae.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(1)
    sizes = {"channels": (16, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}
    model = VQVAE(image_size=16, codebook_size=32, code_width=8, **sizes).train()
    state, batch = {k: v.clone() for k, v in model.state_dict().items()}, images()
    model.loss(batch)["loss"].backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    book = model.quantizer.codebook.clone()
    model.load_state_dict(state)
    model.zero_grad()
    model.enable_gradient_checkpointing()
    model.loss(batch)["loss"].backward()
    assert all(torch.allclose(p.grad, plain[n], atol=1e-6) for n, p in model.named_parameters())
    assert torch.equal(model.quantizer.codebook, book)  # and the codebook was updated once, not twice


def test_save_and_load_are_bit_equal(vqvae, tmp_path):
    vqvae.save_pretrained(tmp_path)
    again = VQVAE.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in vqvae.state_dict().items())


def test_codes_do_not_depend_on_precision(vqvae):
    """Under autocast the quantizer stays exact, and a model in half precision still encodes."""
    z, batch = torch.randn(500, 8), images(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vqvae.quantizer.nearest(z)
    assert torch.equal(inside, vqvae.quantizer.nearest(z))
    whole = vqvae.encode(batch)
    assert (vqvae.to(torch.bfloat16).encode(batch) == whole).float().mean() > 0.8


def test_loading_keeps_the_fast_memory_layout(vqvae, tmp_path):
    vqvae.save_pretrained(tmp_path)
    weight = VQVAE.from_pretrained(tmp_path).encoder[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (torch.zeros(1, 3, 18, 16), "not divisible by 4"),
        (torch.full((1, 3, 16, 16), 2.0), "must lie in"),
        (torch.full((1, 3, 16, 16), torch.nan), "must lie in"),
        (torch.zeros(1, 1, 16, 16), "shape"),
    ],
)
def test_bad_images_raise(vqvae, wrong, says):
    with pytest.raises(ValueError, match=says):
        vqvae.encode(wrong)
    with pytest.raises(ValueError, match=says):
        vqvae.loss(wrong)


@pytest.mark.parametrize("wrong", [torch.full((1, 4, 4), 32), torch.full((1, 4, 4), -1), torch.zeros(1, 4, 4)])
def test_bad_codes_raise(vqvae, wrong):
    with pytest.raises(ValueError, match="codes must"):
        vqvae.decode(wrong)


def _train_on_rank(rank: int, world: int, folder: str, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    quantizer = EMAQuantizer(16, 4, kmeans_batches=2).train()
    for step in range(12):
        whole = torch.randn(64, 4, generator=torch.Generator().manual_seed(step)) * (1 + step)
        quantizer(whole.chunk(world)[rank])
    torch.save(quantizer.state_dict(), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


def test_codebooks_agree_on_two_processes_and_with_one(tmp_path):
    for world in (1, 2):
        address = f"file://{tmp_path}/rendezvous-{world}"
        mp.spawn(_train_on_rank, (world, str(tmp_path), address), nprocs=world)
    one, first, second = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1-0", "2-0", "2-1"))
    for name in one:
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(one[name], first[name], rtol=1e-4, atol=1e-5), name
