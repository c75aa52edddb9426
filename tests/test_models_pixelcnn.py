"""Autoregressive models: causality, normalisation, sampling with and without a cache, completion."""

from __future__ import annotations

import itertools

import pytest
import torch
from generative_models import seeds, stirred

from t2i.models.autoregressive.causal import Autoregressive
from t2i.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from t2i.models.autoregressive.pixelcnn import PixelCNN
from t2i.models.autoregressive.pixelcnn_pp import PixelCNNpp
from t2i.models.autoregressive.pixelrnn import PixelRNN, by_diagonals
from t2i.models.base import from_levels

FAMILIES = {
    "pixelcnn": lambda **sizes: PixelCNN(width=6, blocks=2, first_kernel=5, **sizes),
    "row": lambda **sizes: PixelRNN(width=6, blocks=2, first_kernel=5, **sizes),
    "diagonal": lambda **sizes: PixelRNN(kind="diagonal", width=6, blocks=2, first_kernel=5, **sizes),
    "gated": lambda **sizes: GatedPixelCNN(width=6, layers=2, first_kernel=5, **sizes),
    "pixelcnn++": lambda **sizes: PixelCNNpp(width=6, resolutions=2, blocks=1, mixtures=3, **sizes),
}


@pytest.fixture(params=FAMILIES)
def make(request):
    return lambda **sizes: stirred(FAMILIES[request.param](**sizes), 0.2).eval()


def random_images(model: Autoregressive, n: int) -> torch.Tensor:
    return from_levels(torch.randint(model.levels, (n, *model.shape)), model.levels)


@pytest.mark.parametrize(("channels", "levels", "classes"), [(1, 4, 0), (1, 4, 2), (3, 2, 0)])
def test_the_probabilities_of_all_images_sum_to_one(make, channels, levels, classes):
    """All 256 images of 2×2 pixels with 4 levels, or all 4,096 with two levels and three channels."""
    model = make(image_size=2, channels=channels, levels=levels, num_classes=classes)
    k = torch.tensor(list(itertools.product(range(levels), repeat=4 * channels))).view(-1, channels, 2, 2)
    for label in range(max(1, classes)):
        y = torch.full((len(k),), label) if classes else None
        with torch.no_grad():
            assert model.log_prob(from_levels(k, levels), y).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_follows_from_those_before_it_alone(make, channels):
    model = make(image_size=8, channels=channels, levels=5)
    images = random_images(model, 1)
    with torch.no_grad():
        before = model(images)[0]  # (P, 8, 8)
        reached = torch.zeros(64, dtype=torch.bool)
        for place in range(64):
            i, j = divmod(place, 8)
            other = images.clone()
            other[:, :, i, j] = -other[:, :, i, j].sign() + (other[:, :, i, j] == 0)
            changed = ((model(other)[0] - before).abs() > 1e-6).flatten(1).any(0)
            later = torch.arange(64) > place
            # Channels of a pixel depend on one another through the network or through the mixture.
            if channels == 3 and isinstance(model, PixelCNN | GatedPixelCNN | PixelRNN):
                later[place] = True
            assert not changed[~later].any()
            reached |= changed
    assert reached[1:].all()


def test_the_top_rows_are_scored_without_the_others(make):
    """ln P of two rows is that of all images with these rows, and does not depend on the pixels below."""
    model = make(image_size=2, channels=1, levels=4, num_classes=0)
    k = torch.tensor(list(itertools.product(range(4), repeat=4))).view(-1, 1, 2, 2)
    with torch.no_grad():
        images = from_levels(k, 4)
        summed = model.log_prob(images).view(16, 16).logsumexp(1)
        top = model.log_prob(images, known=torch.tensor([[True, True], [False, False]])).view(16, 16)
    assert torch.allclose(top, summed[:, None].expand(16, 16), atol=1e-4)
    with pytest.raises(ValueError, match="only the last pixels may be unknown"):
        model.log_prob(images, known=torch.tensor([[True, False], [True, False]]))


def test_channels_follow_from_channels_before_them_alone():
    for family in (PixelCNN, GatedPixelCNN):
        model = stirred(family(4, 3, 4, width=24, first_kernel=3), 0.2).eval()
        images = random_images(model, 16)
        with torch.no_grad():
            before = model(images)[:, :, 1, 1].view(-1, 3, 4)
            for c in range(3):
                other = images.clone()
                other[:, c, 1, 1] = -images[:, c, 1, 1]
                changed = ((model(other)[:, :, 1, 1].view(-1, 3, 4) - before).abs() > 1e-6).any(2).any(0)
                assert changed.tolist() == [False] * (c + 1) + [True] * (2 - c)


def test_the_gated_one_has_no_blind_spot():
    """The pixel one above and four to the right: out of reach for masked 3×3 stacks, but not for two stacks."""
    for family, sees in ((PixelCNN, False), (GatedPixelCNN, True)):
        depth = {"blocks": 6} if family is PixelCNN else {"layers": 6}
        model = stirred(family(10, 1, 2, width=4, first_kernel=3, **depth), 0.2).eval()
        images = random_images(model, 1).requires_grad_()
        model(images)[0, :, 5, 4].sum().backward()
        assert bool(images.grad[0, 0, 4, 8] != 0) == sees
        assert images.grad[0, 0, 4, 4] != 0
        assert not images.grad[0, 0, 5, 4:].any() and not images.grad[0, 0, 6:].any()


@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (3, 0)])
def test_cached_sampling_equals_uncached(make, channels, classes):
    model = make(image_size=8 if channels == 1 else 6, channels=channels, levels=6, num_classes=classes)
    y = torch.tensor([2, 0]) if classes else None
    cached, naive = (model.sample(2, y, seeds(3, 4), cached=c) for c in (True, False))
    assert torch.equal(cached, naive)
    assert cached.unique().numel() > 3


def test_completion_keeps_known_pixels_and_samples_the_others(make):
    model = make(image_size=8, channels=1, levels=6)
    images = random_images(model, 2)
    before, known = images.clone(), torch.zeros(8, 8, dtype=torch.bool)
    known[:4], known[6, 2:5] = True, True
    cached, naive = (model.complete(images, known, None, seeds(5, 6), cached=c) for c in (True, False))
    assert torch.equal(cached, naive) and torch.equal(images, before)
    assert torch.equal(cached[:, :, known], images[:, :, known])
    changed = images.clone()
    changed[:, :, ~known] = -1
    assert torch.equal(model.complete(changed, known, None, seeds(5, 6)), cached)
    with pytest.raises(ValueError, match="known must be bool"):
        model.complete(images, known[:4], None)


def test_samples_are_as_frequent_as_their_probability():
    model = stirred(GatedPixelCNN(2, 1, 2, width=4, layers=1, first_kernel=3), 0.6).eval()
    drawn = model.sample(8000, None, seeds(0)[0]).flatten(1) > 0
    counts = (drawn.long() * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16) / 8000
    k = torch.tensor(list(itertools.product(range(2), repeat=4))).view(-1, 1, 2, 2)
    with torch.no_grad():
        assert torch.allclose(counts, model.log_prob(from_levels(k, 2)).exp(), atol=0.02)


def test_places_are_sorted_by_diagonals():
    i, j = by_diagonals(5) // 5, by_diagonals(5) % 5
    assert list(zip((i + j).tolist(), i.tolist(), strict=True)) == sorted(
        (a + b, a) for a in range(5) for b in range(5)
    )


def test_the_row_lstm_sees_a_triangle_and_the_diagonal_one_all_but_a_pixel():
    """One LSTM with a 3×3 mask A: the receptive field of position (6, 4), by gradient."""
    seen = {}
    for kind in ("row", "diagonal"):
        model = stirred(PixelRNN(12, 1, 2, kind=kind, width=4, blocks=1, first_kernel=3), 0.2).eval()
        images = random_images(model, 1).requires_grad_()
        model(images)[0, :, 6, 4].sum().backward()
        seen[kind] = images.grad[0, 0] != 0
        assert not seen[kind][6, 4:].any() and not seen[kind][7:].any()
    for i in range(6):  # a triangle: one position further to each side per row
        assert seen["row"][i].tolist() == [i - 4 <= j <= 10 - i for j in range(12)]
    unseen = (~seen["diagonal"]).flatten()[: 6 * 12 + 4].nonzero().flatten().tolist()
    assert unseen == [5 * 12 + 11]  # the right end of the row above, as documented


def test_bad_options_raise():
    with pytest.raises(ValueError, match="unknown kind 'rows'"):
        PixelRNN(8, 1, 4, kind="rows")
    with pytest.raises(ValueError, match="multiple of 3"):
        GatedPixelCNN(8, 3, 4, width=8)
    with pytest.raises(ValueError, match="odd"):
        PixelCNN(8, 1, 4, kernel=4)
    with pytest.raises(ValueError, match="cannot be halved"):
        PixelCNNpp(6, 1, 4, resolutions=3)
