"""The classifier two-sample test on images whose distributions are known."""

from __future__ import annotations

import pytest
import torch

from t2i.eval.evaluators import two_sample
from t2i.eval.evaluators.two_sample import two_sample_accuracy


def noise(n: int, seed: int, low: int = 0) -> torch.Tensor:
    """uint8 (n, 3, 16, 16)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)


def names(n: int, of: str = "") -> list[str]:
    return [f"{of}{i}" for i in range(n)]


def test_accuracy_is_at_chance_for_equal_distributions_only():
    equal = two_sample_accuracy(noise(240, 1), noise(240, 2), names(240), names(240))
    assert equal.n == 120 and equal.low < 0.5 < equal.high
    different = two_sample_accuracy(noise(240, 1), noise(240, 2, low=60), names(240), names(240))
    assert different.value > 0.95


def test_the_accuracy_depends_on_the_seed_only():
    sets = noise(80, 1), noise(120, 2, low=20), names(80), names(120)
    random = torch.random.get_rng_state()
    assert two_sample_accuracy(*sets, seed=3) == two_sample_accuracy(*sets, seed=3)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_all_images_of_a_prompt_are_in_one_split(monkeypatch):
    """12 prompts with ten identical images each, in both sets: knowing one image of a prompt means knowing all."""
    rows = {}

    def fit(x, y, fitted, chosen):
        rows.update(fitted=fitted, chosen=chosen)
        return original(x, y, fitted, chosen)

    original = two_sample._fit
    monkeypatch.setattr(two_sample, "_fit", fit)
    prompts = [f"prompt {i // 10}" for i in range(120)]
    # The set of an image can only be memorised, prompt by prompt.
    fake, real = noise(12, 1).repeat_interleave(10, 0), noise(12, 2).repeat_interleave(10, 0)
    found = two_sample_accuracy(fake, real, prompts, prompts)
    of = {part: {prompts[int(i) % 120] for i in indices} for part, indices in rows.items()}
    assert not of["fitted"] & of["chosen"]
    assert found.n == 60 and len(of["fitted"] | of["chosen"]) == 9  # of 12, three are held out
    with pytest.raises(ValueError, match="too few for a two-sample test"):
        two_sample_accuracy(fake[:8], real, prompts[:8], prompts)
    with pytest.raises(ValueError, match="too few different prompts"):
        two_sample_accuracy(fake, real, ["a"] * 120, ["a"] * 120)
