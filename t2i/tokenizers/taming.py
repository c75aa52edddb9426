"""Checkpoints of taming-transformers and latent diffusion (VQGAN, Esser et al. 2021, arXiv 2012.09841) as VQModel.

Names of layers: github.com/CompVis/taming-transformers, taming/modules/diffusionmodules/model.py. The architecture is
inferred from the names and shapes of the tensors. The resolution of the training images leaves no trace in them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from t2i.files import read_text
from t2i.tokenizers.published import fill
from t2i.tokenizers.vqmodel import GumbelVQModel, VQModel
from t2i.weights import short

IMAGE_SIZE = 256  # of all published checkpoints
INSIDE = "first_stage_model."  # prefix in checkpoints of a transformer or denoiser that hold the VQGAN too
PARTS = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
RENAMED = (  # in this order
    (r"^encoder\.down\.(\d+)", r"encoder.down_blocks.\1"),
    (r"(_blocks\.\d+)\.block\.", r"\1.resnets."),
    (r"(_blocks\.\d+)\.attn\.", r"\1.attentions."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
)


def is_published(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as in a checkpoint of taming-transformers or latent diffusion."""
    return any(key.removeprefix(INSIDE).startswith("encoder.down.0.block.0.") for key in tensors)


def from_published(
    tensors: Mapping[str, Tensor], config: str | Path | None = None, image_size: int | None = None
) -> tuple[VQModel, dict[str, int]]:
    """The model, and what of the file is no part of it: {first word of the names: number of tensors}.

    Args:
        tensors: those of the checkpoint, by name.
        config: the .yaml file that was published with it: its resolution is used, the rest must agree with the tensors.
        image_size: side of the images it is for; by default the config's resolution, or 256.

    Raises ValueError for an autoencoder without codes or of another architecture, and for a config that disagrees.
    """
    state: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    inside = any(key.startswith(INSIDE) for key in tensors)
    for key, tensor in tensors.items():
        name = key.removeprefix(INSIDE)
        if name.split(".")[0] in PARTS and (name != key or not inside):
            state[name] = tensor
        else:
            left_out[name.split(".")[0]] += 1
    gumbel = "quantize.proj.weight" in state
    if not gumbel and "quantize.embedding.weight" not in state:
        raise ValueError("it has no codebook: it is a KL autoencoder, with continuous latents instead of codes")
    if "quantize.used" in state:
        raise ValueError("it uses only a part of its codebook (remap), which is not supported")
    arguments = _arguments(state)
    if config is not None:
        resolution = _check_config(Path(config), state, arguments)
        image_size = image_size or resolution
    model = (GumbelVQModel if gumbel else VQModel)(**arguments, sample_size=image_size or IMAGE_SIZE)
    if model.image_size % model.stride:
        raise ValueError(f"the image size {model.image_size} is not divisible by the stride {model.stride}")
    levels = len(arguments["block_out_channels"])
    return fill(model, dict(_renamed(key, tensor, levels) for key, tensor in state.items())), dict(left_out)


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of VQModel, of the tensors' names and shapes."""
    needed = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_out", "quant_conv", "post_quant_conv")
    if missing := [name for name in needed if f"{name}.weight" not in state]:
        raise ValueError(f"it lacks {missing[0]}.weight: it is incomplete")
    levels = {int(m[1]) for key in state if (m := re.match(r"encoder\.down\.(\d+)\.", key))}
    blocks = [key for key in state if re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", key)]
    channels = state["encoder.conv_in.weight"].shape[1], state["decoder.conv_out.weight"].shape[0]
    if channels != (3, 3):
        raise ValueError(f"its images have {channels[0]} channels, and are no RGB images")

    def attention(part: str, level: int) -> str:
        return "Attn" if f"{part}.{level}.attn.0.norm.weight" in state else ""

    return {
        "down_block_types": tuple(f"{attention('encoder.down', i)}DownEncoderBlock2D" for i in sorted(levels)),
        "up_block_types": tuple(f"{attention('decoder.up', i)}UpDecoderBlock2D" for i in sorted(levels, reverse=True)),
        "block_out_channels": tuple(len(state[f"encoder.down.{i}.block.0.conv1.weight"]) for i in sorted(levels)),
        "layers_per_block": len(blocks),
        "latent_channels": len(state["encoder.conv_out.weight"]),
        "num_vq_embeddings": len(state.get("quantize.embed.weight", state.get("quantize.embedding.weight", ()))),
        "vq_embed_dim": len(state["quant_conv.weight"]),
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in state,
    }


def _check_config(file: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> int:
    """The resolution in a config. Raises ValueError, naming the value, where the config is not of these tensors."""
    try:
        content = yaml.safe_load(read_text(file))
        params = content["model"]["params"]
        params = params.get("first_stage_config", {}).get("params", params)
        network, resolution = params["ddconfig"], int(params["ddconfig"]["resolution"])
        said = {
            "embed_dim": params["embed_dim"],
            "n_embed": params["n_embed"],
            "z_channels": network["z_channels"],
            "num_res_blocks": network["num_res_blocks"],
            "ch · ch_mult": tuple(network["ch"] * factor for factor in network["ch_mult"]),
            "attn_resolutions": sorted(network["attn_resolutions"]),
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"{type(error).__name__}: {short(error)}"
        raise ValueError(f"{file} is no config of a VQGAN in taming-transformers' layout ({why})") from None
    sides = [resolution // 2**i for i in range(len(arguments["block_out_channels"]))]
    attended = sorted(s for s, kind in zip(sides, arguments["down_block_types"], strict=True) if "Attn" in kind)
    said["attn_resolutions"] = [side for side in said["attn_resolutions"] if side in sides]  # others have no effect
    found = {
        "embed_dim": arguments["vq_embed_dim"],
        "n_embed": arguments["num_vq_embeddings"],
        "z_channels": arguments["latent_channels"],
        "num_res_blocks": arguments["layers_per_block"],
        "ch · ch_mult": arguments["block_out_channels"],
        "attn_resolutions": attended,
    }
    for name, value in said.items():
        if value != found[name]:
            raise ValueError(f"{file} says {name} {value}, but the weights have {found[name]}: give their own config")
    return resolution


def _renamed(key: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """A tensor with its name in VQModel; the 1×1 convolutions of attention are linear layers there."""
    key = re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}", key)
    for pattern, new in RENAMED:
        key = re.sub(pattern, new, key)
    return key, tensor[:, :, 0, 0] if ".attentions." in key and tensor.ndim == 4 else tensor
