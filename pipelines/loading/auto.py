"""One name for every pipeline: the embedded ones, a folder, or a model of the Hub."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as LORA
from diffusers.utils import logging

from t2i.checks import check_options, nearest
from t2i.devices import Dtype, to_device
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.latent_diffusion import (
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionLayoutPipeline,
    LatentDiffusionPipeline,
    LatentDiffusionUpscalePipeline,
)
from t2i.pipelines.loading.lora import add_lora, find_lora
from t2i.pipelines.loading.single_file import HUB_OPTIONS, is_single_file, open_single_file
from t2i.pipelines.loading.verify import INDEX, assemble, load_components, read_index

WEIGHTS = Path(__file__).parent.parent / "weights"
PLACED = {"device_map", "quantization_config", "variant"}  # options by which diffusers itself loads the components
_OURS = (
    DallePipeline,
    LatentDiffusionPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionUpscalePipeline,
    LatentDiffusionLayoutPipeline,
)
PIPELINES = {cls.__name__: cls for cls in _OURS}


def embedded() -> dict[str, Path]:
    """The systems whose weights come with the package, by name ("toybox/dalle")."""
    return {
        str(p.parent.relative_to(WEIGHTS).as_posix()): p.parent for p in sorted(WEIGHTS.glob("*/*/model_index.json"))
    }


class AutoPipeline:
    """Opens any text-to-image pipeline by name; never made itself."""

    def __init__(self) -> None:
        raise TypeError("AutoPipeline is opened, not made: AutoPipeline.from_pretrained(name)")

    @staticmethod
    def from_pretrained(
        name: str | Path, dtype: torch.dtype | dict[str, torch.dtype] | None = None, **kwargs
    ) -> DiffusionPipeline:
        """Open an embedded system (no network), a folder with model_index.json, a single file, or a model of the Hub.

        What t2i saved opens in its own classes, all else in diffusers' class of that name.

        Args:
            name: "toybox/dalle", "runs/prior-toybox" (its newest checkpoint), "CompVis/stable-diffusion-v1-4",
                "model.safetensors", …
            dtype: of the weights in memory, float32 by default (the embedded ones are stored in half precision), or
                of each component: {"unet": torch.bfloat16, "default": torch.float32}; `torch_dtype`, its older name in
                diffusers, is understood too.
            kwargs: go to the pipeline class's own `from_pretrained`, or for a file to `from_single_file`.

        Raises FileNotFoundError, listing the embedded systems and the nearest to `name`, when it is none of these, and
        ValueError, naming the file, for a folder whose files are damaged (and the newest whole checkpoint of a run) or
        do not belong together.
        """
        dtype = kwargs.pop("torch_dtype", None) or dtype or torch.float32
        if is_single_file(str(name)):
            return AutoPipeline.from_single_file(name, dtype, **kwargs)
        kwargs["dtype"] = dtype
        source = newest_in_run(embedded().get(str(name), Path(name)), INDEX)
        verify(source)
        if (source / INDEX).is_file():
            cls = _pipeline_class(read_index(source), source / INDEX)
            if cls in (*PIPELINES.values(), StableDiffusionPipeline) and not kwargs.keys() & PLACED:
                kwargs = load_components(cls, source, kwargs, kwargs["dtype"]) | kwargs
            return _with_text_model(assemble(cls, source, kwargs))
        if (source / LORA).is_file():
            raise FileNotFoundError(
                f"{source} holds a LoRA, which changes the pipeline it was trained on: open that one, and add "
                f"--lora {source} at the command line, or pipe.load_lora_weights({str(source)!r}) in Python"
            )
        if source.exists():
            raise FileNotFoundError(f"{source} is not a pipeline: it has no model_index.json")
        if not may_be_on_hub(str(name)):
            raise FileNotFoundError(_unknown(str(name)))
        try:
            where = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
            config = DiffusionPipeline.load_config(str(name), **where)
        except OSError as error:
            raise FileNotFoundError(f"{_unknown(str(name))} The Hub says: {str(error).splitlines()[0]}") from error
        cls = _pipeline_class(config, name)
        return _with_text_model(cls.from_pretrained(str(name), **kwargs))

    @staticmethod
    def from_single_file(file: str | Path, dtype: torch.dtype | None = None, **kwargs) -> DiffusionPipeline:
        """Open a pipeline whose weights are one .safetensors or .ckpt file, in diffusers' class for it.

        Args:
            file: a path, or the address of a file of the Hub.
            dtype: as of `from_pretrained`, but one for all components.
            kwargs: go to the class's own `from_single_file`. `config` is a pipeline of the same architecture in
                diffusers' layout: with a folder no network is needed, and by default the Hub is asked for one.

        Raises FileNotFoundError where there is no such file, or no `config` and no network, and ValueError for a file
        that is no pipeline's weights, or another dtype. Of a .ckpt weights alone are read: code in it is not run.
        """
        dtype = kwargs.pop("torch_dtype", None) or dtype or torch.float32
        if not isinstance(dtype, torch.dtype):  # diffusers would take float32
            raise ValueError(f"the components of a single file have one dtype: give a torch.dtype, not {dtype!r}")
        return _with_text_model(open_single_file(str(file), dtype=dtype, **kwargs))


def as_latent_diffusion(pipe: DiffusionPipeline, name: str) -> LatentDiffusionPipeline:
    """Stable Diffusion 1.x and 2.x as our class with the same parts, ours as they are.

    Args:
        name: what was opened, for messages.

    Raises ValueError for a pipeline of another kind.
    """
    if type(pipe) is StableDiffusionPipeline:
        return LatentDiffusionPipeline.from_pipe(pipe)
    if not isinstance(pipe, LatentDiffusionPipeline):
        raise ValueError(f"{name} holds a {type(pipe).__name__}: this takes latent diffusion, as toybox/ldm is")
    return pipe


def open_pipeline(
    name: str,
    device: str = "auto",
    lora: str | None = None,
    lora_scale: float | None = None,
    dtype: Dtype | None = None,
) -> DiffusionPipeline:
    """`AutoPipeline.from_pretrained` on a device, "auto" being the fastest there is; for command lines.

    Args:
        name: as of `AutoPipeline.from_pretrained`.
        device: "cpu", "cuda", …
        lora: a folder of `t2i train lora`, or a file like the one that is in it.
        lora_scale: 1 as it was trained, 0 as if there were none; 1 by default.
        dtype: of the weights in memory, and so of what is computed with them; float32 by default.

    Raises ValueError for a device that cannot be used, and for a LoRA that the pipeline does not take;
    FileNotFoundError for one that is not there.
    """
    check_options({"lora_scale": lora_scale}, flags=True)
    found = find_lora(lora, lora_scale)
    for library in (logging, transformers.utils.logging):
        library.disable_progress_bar()  # of loading, which takes no time
    pipe = AutoPipeline.from_pretrained(name, dtype and getattr(torch, dtype))
    if found is not None:
        add_lora(pipe, name, found, 1.0 if lora_scale is None else lora_scale)
    return to_device(pipe, device)


def _pipeline_class(config: dict, index: str | Path) -> type[DiffusionPipeline]:
    """The class that opens a folder with this model_index.json, which is named in errors."""
    import diffusers

    name = str(config.get("_class_name"))
    if name == "StableDiffusionPipeline" and config.get("_made_by") == "t2i":
        return LatentDiffusionPipeline  # saved under a name that diffusers knows
    cls = PIPELINES.get(name) or getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, DiffusionPipeline):
        raise ValueError(f"{index} names {name!r}, which is no pipeline of t2i nor of this version of diffusers")
    return cls


def _with_text_model(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """diffusers' `clip_skip` looks for the last norm in `text_encoder.text_model`, which transformers 5 took away."""
    encoder = pipe.components.get("text_encoder")
    if isinstance(encoder, transformers.CLIPTextModel) and not hasattr(encoder, "text_model"):
        vars(encoder)["text_model"] = encoder  # not as a submodule, which would be in itself
    return pipe


def _unknown(name: str) -> str:
    known = list(embedded())
    parent = Path(name).parent
    there = [str(p) for p in parent.iterdir() if p.is_dir()] if parent != Path() and parent.is_dir() else []
    near = nearest(name, [*known, *there])
    hint = f" Did you mean {near!r}?" if near else ""
    return f"there is no pipeline {name!r}.{hint} Embedded: {', '.join(known) or 'none'}; or give a folder or a Hub id."
