"""The search for near copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t2i.eval.metrics import near_copies, nearest


def test_nearest_equals_a_loop_over_all_pairs():
    x, y = torch.randn(7, 5).double() + 1000, torch.randn(11, 5).double() + 1000
    every = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    for block in (1, 30, 10_000):
        distances, indices = nearest(x, y, block)
        np.testing.assert_allclose(distances, every.min(1).values, rtol=1e-6)
        assert indices.tolist() == every.argmin(1).tolist()


def test_copies_are_detected_with_their_originals():
    training, held_out = torch.randn(300, 8), torch.randn(200, 8)
    copied = [5, 250, 17]
    found = near_copies(torch.cat([torch.randn(20, 8) + 50, training[copied] + 1e-3]), training, held_out)
    assert found.copies.tolist() == [False] * 20 + [True] * 3
    assert found.nearest[-3:].tolist() == copied


def test_new_samples_score_as_new_real_samples_do():
    training, held_out, generated = torch.randn(400, 4), torch.randn(2000, 4), torch.randn(2000, 4)
    found = near_copies(generated, training, held_out, quantile=0.1)
    assert len(found.real_copies) == 1000
    assert abs(found.copies.mean() - 0.1) < 0.03  # three standard errors of both shares
    assert abs(found.real_copies.mean() - 0.1) < 0.04


def test_without_new_real_samples_each_training_sample_is_compared_with_the_others():
    training = torch.randn(400, 4)
    alone = near_copies(training[:5] + 1e-4, training, quantile=0.1)
    assert alone.copies.all()
    assert abs(alone.real_copies.mean() - 0.1) < 0.06
    first = [nearest(training[i : i + 1], torch.cat([training[:i], training[i + 1 :]]))[0][0] for i in range(200)]
    assert alone.threshold == pytest.approx(np.quantile(first, 0.1))


def test_bad_input_raises():
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="quantile must lie"):
        near_copies(x, x, x, quantile=1.5)
    with pytest.raises(ValueError, match="at least 2"):
        near_copies(x, x, x[:1])
    with pytest.raises(ValueError, match="NaN"):
        nearest(x / 0, x)
