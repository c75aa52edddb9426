"""Sampling of one token."""

from __future__ import annotations

import pytest
import torch

from t2i.diffusion.guidance import guide
from t2i.prior.sampling import check_sampling, sample_tokens, shortlist


def kept(logits: torch.Tensor, **limits) -> list[set[int]]:
    """The tokens that may be sampled, for each row."""
    left, tokens = shortlist(logits, **limits)
    return [set(t[x.isfinite()].tolist()) for x, t in zip(left, tokens, strict=True)]


def test_top_k_keeps_the_k_largest():
    logits = torch.randn(3, 20)
    assert kept(logits, top_k=5) == [set(row.topk(5).indices.tolist()) for row in logits]
    assert kept(logits, top_k=50) == kept(logits) == [set(range(20))] * 3


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([[0.15, 0.5, 0.1, 0.25]]).log()
    assert kept(logits, top_p=0.7) == [{1, 3}]
    assert kept(logits, top_p=0.75) == [{1, 3}]
    assert kept(logits, top_p=0.76) == [{1, 3, 0}]
    assert kept(logits, top_p=1e-9) == [{1}]
    assert kept(logits, top_p=0.76, top_k=2) == [{1, 3}]


def test_every_logit_stays_with_its_token():
    logits = torch.randn(4, 30)
    for limits in ({}, {"top_k": 7}, {"top_k": 7, "top_p": 0.999999}):
        left, tokens = shortlist(logits, 0.5, **limits)
        assert torch.equal(left, logits.gather(1, tokens) / 0.5)


def test_filtering_writes_to_nothing():
    logits = torch.randn(2, 9)
    before = logits.clone()
    shortlist(logits, 0.5, 3, 0.5)
    assert torch.equal(logits, before)


def test_guidance_at_one_is_the_conditional_model():
    c, u = torch.randn(2, 3, 7)
    assert torch.allclose(guide(c, u, 1.0), c, atol=1e-6)
    assert torch.equal(guide(c, u, 0.0), u)


def test_samples_follow_the_distribution():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = sample_tokens(*shortlist(p.log().expand(40_000, -1)), None)
    frequency = torch.bincount(drawn, minlength=5) / len(drawn)
    assert (frequency - p).abs().max() < 0.01  # four standard errors
    assert frequency[4] == 0


def test_a_row_depends_on_its_own_generator_alone():
    logits = torch.randn(3, 50)
    together = sample_tokens(*shortlist(logits, top_k=9), [torch.Generator().manual_seed(s) for s in (1, 2, 3)])
    alone = [
        sample_tokens(*shortlist(logits[i : i + 1], top_k=9), [torch.Generator().manual_seed(i + 1)]).item()
        for i in range(3)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}])
def test_values_that_select_nothing_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        check_sampling(**{"temperature": 1.0, "top_k": None, "top_p": None, **wrong})
