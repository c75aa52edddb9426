"""OpenAI's discrete VAE, the image tokenizer of DALL·E (Ramesh et al. 2021, arXiv 2102.12092, appendices A.1 and A.3).

The architecture and the names of the layers are those of the published encoder.pkl and decoder.pkl
(github.com/openai/DALL-E). `t2i convert` makes this model of them; the discrete VAE that t2i trains is in `dvae.py`.

Shapes: B batch · S image side · s = S / stride grid side · K codes · C channels
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import ModelMixin  # noqa: F401  # diffusers looks for the base class in a component's module
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.losses import logit_laplace_image, to_unit_interval
from t2i.tokenizers.published import fill

ENCODER_KERNELS, DECODER_KERNELS = (3, 3, 3, 1), (1, 3, 3, 3)


class OpenAIDiscreteVAE(ImageTokenizer):
    """Convolutional encoder and decoder with a code of K for each s×s cell; the defaults are the published model's.

    Args:
        image_size: Side of the square training images; any multiple of the stride can be encoded.
        n_hid: Channels at full resolution; each further level has twice as many.
        n_init: Channels of the decoder's embedding of a code.
        n_blk_per_group: Number of residual blocks at each level.
        group_count: Number of levels; each but the first halves the resolution.
        vocab_size: Number of codes, K.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        n_hid: int = 256,
        n_init: int = 128,
        n_blk_per_group: int = 2,
        group_count: int = 4,
        vocab_size: int = 8192,
    ):
        super().__init__()
        if n_hid < 4 or n_hid % 4:
            raise ValueError(f"n_hid must be a multiple of 4, not {n_hid}")
        self.image_size, self.stride, self.codebook_size = image_size, 2 ** (group_count - 1), vocab_size
        if image_size % self.stride:
            raise ValueError(f"image_size {image_size} is not divisible by the stride {self.stride}")
        widths = [n_hid * 2**level for level in range(group_count)]
        self.encoder = encoder(widths, n_blk_per_group, vocab_size)
        self.decoder = decoder(widths, n_blk_per_group, vocab_size, n_init)
        self.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> logits of the codes (B, K, s, s). As in the published model, the last layer is
        computed in float32."""
        *groups, (relu, conv) = self.encoder
        x = to_unit_interval(images)
        for group in groups:
            x = group(x)
        return F.conv2d(relu(x).float(), conv.weight.float(), conv.bias.float())

    def _encode(self, images: Tensor) -> Tensor:
        return self.logits(images).argmax(1)

    def _decode(self, codes: Tensor) -> Tensor:
        embed, *groups = self.decoder
        # The first layer's product with one-hot vectors is a lookup.
        x = F.embedding(codes, embed.weight[:, :, 0, 0].T) + embed.bias  # (B, s, s, C)
        x = x.permute(0, 3, 1, 2)
        for group in groups:
            x = group(x)
        return logit_laplace_image(x)


class Block(nn.Module):
    """Residual block x + gain · f(x): f is four convolutions, each after a ReLU, through a quarter of the channels."""

    def __init__(self, n_in: int, n_out: int, kernels: Sequence[int], gain: float):
        super().__init__()
        self.gain = gain
        self.id_path = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths = (n_in, *[n_out // 4] * 3, n_out)
        path = OrderedDict[str, nn.Module]()
        for i, kernel in enumerate(kernels):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, S, S) -> (B, n_out, S, S)"""
        return self.id_path(x) + self.gain * self.res_path(x)


def encoder(widths: Sequence[int], blocks: int, codes: int) -> nn.Sequential:
    """(B, 3, S, S) -> (B, K, s, s)"""
    layers = OrderedDict[str, nn.Module](input=nn.Conv2d(3, widths[0], 7, padding=3))
    layers |= _groups(widths[0], widths, blocks, ENCODER_KERNELS, pool=nn.MaxPool2d(2))
    layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(widths[-1], codes, 1)))
    return nn.Sequential(layers)


def decoder(widths: Sequence[int], blocks: int, codes: int, n_init: int) -> nn.Sequential:
    """One-hot codes (B, K, s, s) -> μ and ln b of the pixels (B, 6, S, S)"""
    layers = OrderedDict[str, nn.Module](input=nn.Conv2d(codes, n_init, 1))
    layers |= _groups(n_init, widths[::-1], blocks, DECODER_KERNELS, upsample=nn.Upsample(scale_factor=2))
    layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(widths[0], 6, 1)))
    return nn.Sequential(layers)


def _groups(
    before: int, widths: Sequence[int], blocks: int, kernels: Sequence[int], **between: nn.Module
) -> OrderedDict[str, nn.Module]:
    """One group of blocks for each width, and the module `between` after each but the last."""
    groups = OrderedDict[str, nn.Module]()
    gain = 1 / (len(widths) * blocks) ** 2
    for level, width in enumerate(widths, 1):
        group = OrderedDict[str, nn.Module]()
        for block in range(1, blocks + 1):
            group[f"block_{block}"] = Block(before, width, kernels, gain)
            before = width
        groups[f"group_{level}"] = nn.Sequential(group | (between if level < len(widths) else {}))
    return groups


# ----------------------------------------------------------------------------------------------- published layout


def is_published(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as in encoder.pkl or decoder.pkl, behind any prefix."""
    return any(key.endswith("blocks.input.w") for key in tensors)


def from_published(tensors: Mapping[str, Tensor], image_size: int | None = None) -> OpenAIDiscreteVAE:
    """The model with the weights of encoder.pkl and decoder.pkl, whose tensors have names as `…blocks.group_1.….w`.

    Args:
        tensors: those of both; any prefix sets the two apart ("encoder.", "enc.", a file's name).
        image_size: side of the images it is for; by default 256, as it was trained.

    Raises ValueError if one of the two is missing, or their shapes do not fit this architecture.
    """
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        prefix, _, name = key.rpartition("blocks.")
        # Only the encoder sees pixels, through a kernel of 7×7; the decoder's first layer has one of 1×1.
        first = tensors.get(f"{prefix}blocks.input.w")
        if not name or first is None:
            raise ValueError(f"{key} is no part of OpenAI's encoder or decoder: give only encoder.pkl and decoder.pkl")
        part = "encoder" if first.shape[-1] > 1 else "decoder"
        name = re.sub(r"\.([wb])$", lambda m: {"w": ".weight", "b": ".bias"}[m[1]], name)
        if f"{part}.{name}" in state:
            raise ValueError(f"there are two {part}s: give encoder.pkl and decoder.pkl, each once")
        state[f"{part}.{name}"] = tensor
    for part in ("encoder", "decoder"):
        if f"{part}.input.weight" not in state:
            raise ValueError(f"there is no {part}: give encoder.pkl and decoder.pkl together")
    blocks = Counter(m[1] for key in state if (m := re.match(r"encoder\.group_(\d+)\.block_\d+\..*conv_1.weight", key)))
    model = OpenAIDiscreteVAE(
        **({} if image_size is None else {"image_size": image_size}),
        n_hid=len(state["encoder.input.weight"]),
        n_init=len(state["decoder.input.weight"]),
        n_blk_per_group=max(blocks.values(), default=1),
        group_count=max(len(blocks), 1),
        vocab_size=state["decoder.input.weight"].shape[1],
    )
    return fill(model, state)
