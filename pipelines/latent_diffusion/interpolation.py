"""Pictures on the way from one prompt or seed to another.

Shapes: n pictures · C, h, w latent · L text positions · D width of the text states
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from t2i.checks import check_seeds, check_whole
from t2i.pipelines.generators import copied


class Interpolation:
    """What a latent-diffusion pipeline has of it."""

    @torch.no_grad()
    def interpolate(
        self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0, num: int = 8, **options
    ) -> list | Tensor:
        """`num` pictures from the first prompt and seed to the second; the ends are the plain pictures of each.

        The prompts' states are interpolated linearly, the noise on the sphere. The noise that some samplers add on
        their way is the first seed's for the first half of the pictures and the second's for the rest.

        Args:
            prompts: one, or two to go from one to the other.
            seeds: likewise.
            num: of pictures, the two ends included.
            options: those of calling the pipeline, but those that say the prompt, the noise or the size of the batch.

        Returns:
            The pictures, as `output_type` says. Raises ValueError for fewer than two pictures, for anything but one or
            two prompts and seeds, and for what calling the pipeline would.
        """
        first, last = _pair("prompts", prompts, str)
        start, end = _pair("seeds", seeds, int)
        check_whole("num", num, least=2)
        for seed in (start, end):
            check_seeds("seeds", seed)
        ours = ("prompt", "prompt_embeds", "generator", "latents", "num_images_per_prompt", "return_dict")
        if taken := [name for name in ours if name in options]:
            raise ValueError(f"interpolate itself chooses {taken[0]}: give prompts, seeds and num")
        along = torch.linspace(0, 1, num, dtype=torch.float64)
        shape = (1, *self._latent_shape(options.get("height"), options.get("width")))
        generators = [torch.Generator().manual_seed(s) for s in (start, end)]
        both = [randn_tensor(shape, generator=g, dtype=self.unet.dtype) for g in generators]
        # A plain picture's generator has drawn the noise before the sampler draws from it.
        sources = [copied(generators[2 * i >= num]) for i in range(num)]
        text = between(self._text([first, last]), along)
        return self(
            prompt_embeds=text.states,
            prompt_attention_mask=text.mask,
            latents=torch.cat([slerp(*both, w) for w in along.tolist()]),
            generator=sources,
            **options,
        ).images


def between(text, along: Tensor):
    """The states of two prompts (2, L, D) -> of n texts between them (n, L, D), along (n,) from 0 to 1.

    Where only one of the two has text, so have all between them.
    """
    w = along.to(text.states.device, text.states.dtype).view(-1, 1, 1)
    states = (1 - w) * text.states[:1] + w * text.states[1:]
    if text.mask is None:
        return dataclasses.replace(text, states=states)
    mask = text.mask.any(0, keepdim=True).repeat(len(along), 1)
    mask[0], mask[-1] = text.mask[0], text.mask[1]
    return dataclasses.replace(text, states=states, mask=mask)


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves", § 3.3): w 0 is a, 1 is b.

    Noise stays as long as noise is, which between two independent draws a straight line would cut short by up to 1/√2.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0).clamp(-1, 1)
    angle, w = cosine.arccos(), torch.tensor(w, dtype=torch.float64)
    if angle.sin() < 1e-6:  # one direction: the way is straight
        return torch.lerp(a, b, w.to(a.dtype))
    weights = ((1 - w) * angle).sin() / angle.sin(), (w * angle).sin() / angle.sin()
    return (weights[0] * a.double() + weights[1] * b.double()).to(a.dtype)


def _pair(name: str, given, kind: type) -> tuple:
    """One of a kind twice, or the two that are given."""
    pair = (given, given) if isinstance(given, kind) else tuple(given) if isinstance(given, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(one, kind) for one in pair):
        raise ValueError(f"{name} must be one {kind.__name__} or two, not {given!r}")
    return pair
