"""AutoPipeline: opens embedded systems, folders, single files and models of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as LORA
from diffusers.utils import logging

from t2i.checks import check_options, nearest
from t2i.devices import PipelineDtype, to_device
from t2i.files import read_json
from t2i.folders import EMBEDDED, may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.notes import with_article
from t2i.pipelines.codes import CodePipeline
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.imagen import ImagenPipeline
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
from t2i.pipelines.muse import MusePipeline
from t2i.pipelines.unclip import UnCLIPPipeline

CONFIG = "config.json"
DIFFUSERS_OPTIONS = {"device_map", "quantization_config", "variant"}  # with these diffusers loads the components
_CLASSES = (
    DallePipeline,
    ImagenPipeline,
    LatentDiffusionPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionUpscalePipeline,
    LatentDiffusionLayoutPipeline,
    MusePipeline,
    UnCLIPPipeline,
)
PIPELINES = {cls.__name__: cls for cls in _CLASSES}
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def embedded() -> dict[str, Path]:
    """The folders of the systems that come with the package, by name ("toybox/dalle")."""
    found = sorted(EMBEDDED.glob("*/*/model_index.json"))
    return {str(p.parent.relative_to(EMBEDDED).as_posix()): p.parent for p in found}


class AutoPipeline:
    """Opens any text-to-image pipeline by name; it has no instances."""

    def __init__(self) -> None:
        raise TypeError("AutoPipeline has no instances: call AutoPipeline.from_pretrained(name)")

    @staticmethod
    def from_pretrained(
        name: str | Path, dtype: torch.dtype | dict[str, torch.dtype] | None = None, **kwargs
    ) -> DiffusionPipeline:
        """Open an embedded system (no network), a folder with model_index.json, a single file, or a model of the Hub.

        Pipelines saved by t2i open in t2i's classes, all others in the class of diffusers that they name.

        Args:
            name: "toybox/dalle", "runs/prior-toybox" (its newest checkpoint), "CompVis/stable-diffusion-v1-4",
                "model.safetensors", …
            dtype: of the weights in memory, by default float32 (the embedded ones are stored in half precision), or
                by component: {"unet": torch.bfloat16, "default": torch.float32}. `torch_dtype`, its older name in
                diffusers, is accepted.
            kwargs: options of the class's `from_pretrained`, or for a file of `from_single_file`.

        Raises FileNotFoundError, listing the embedded systems and the one nearest to `name`, for an unknown name, and
        ValueError, naming the file, for a folder whose files are damaged (with the newest intact checkpoint of the run)
        or do not belong together.
        """
        dtype = kwargs.pop("torch_dtype", None) or dtype or torch.float32
        if is_single_file(str(name)):
            return AutoPipeline.from_single_file(name, dtype, **kwargs)
        kwargs["dtype"] = dtype
        source = newest_in_run(name, INDEX)
        verify(source)
        if (source / INDEX).is_file():
            cls = _pipeline_class(read_index(source), source / INDEX)
            if cls in (*PIPELINES.values(), StableDiffusionPipeline) and not kwargs.keys() & DIFFUSERS_OPTIONS:
                kwargs = load_components(cls, source, kwargs, kwargs["dtype"]) | kwargs
            return _with_text_model(assemble(cls, source, kwargs))
        if (source / LORA).is_file():
            raise FileNotFoundError(
                f"{source} holds a LoRA, which changes the pipeline it was trained on: open that one, and add "
                f"--lora {source} at the command line, or pipe.load_lora_weights({str(source)!r}) in Python"
            )
        if source.exists():
            raise FileNotFoundError(f"{source} is not a pipeline: it has no model_index.json{_prior_alone(source)}")
        if not may_be_on_hub(str(name)):
            raise FileNotFoundError(_unknown(str(name)))
        try:
            hub_options = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
            config = DiffusionPipeline.load_config(str(name), **hub_options)
        except OSError as error:
            raise FileNotFoundError(f"{_unknown(str(name))} The Hub says: {str(error).splitlines()[0]}") from error
        cls = _pipeline_class(config, name)
        return _with_text_model(cls.from_pretrained(str(name), **kwargs))

    @staticmethod
    def from_single_file(file: str | Path, dtype: torch.dtype | None = None, **kwargs) -> DiffusionPipeline:
        """Open a pipeline whose weights are a single .safetensors or .ckpt file, in diffusers' class for it.

        Args:
            file: a path, or the URL of a file of the Hub.
            dtype: as in `from_pretrained`, but one for all components.
            kwargs: options of the class's `from_single_file`. `config` is a pipeline of the same architecture in
                diffusers' layout, a folder or (the default) one of the Hub, which needs a network.

        Raises FileNotFoundError where there is no such file, or no `config` and no network, and ValueError for a file
        that does not hold a pipeline's weights, or another dtype. Only weights are read from a .ckpt: code in it is not
        run.
        """
        dtype = kwargs.pop("torch_dtype", None) or dtype or torch.float32
        if not isinstance(dtype, torch.dtype):  # diffusers would take float32
            raise ValueError(f"the components of a single file have one dtype: give a torch.dtype, not {dtype!r}")
        return _with_text_model(open_single_file(str(file), dtype=dtype, **kwargs))


def as_latent_diffusion(pipe: DiffusionPipeline, name: str) -> LatentDiffusionPipeline:
    """A latent diffusion pipeline as it is, Stable Diffusion 1.x or 2.x as LatentDiffusionPipeline; see `_as`."""
    if type(pipe) is StableDiffusionPipeline:
        return LatentDiffusionPipeline.from_pipe(pipe)
    return _as(LatentDiffusionPipeline, pipe, name, "a latent diffusion pipeline, such as toybox/ldm, is needed")


def as_autoregressive(pipe: DiffusionPipeline, name: str) -> DallePipeline:
    """An autoregressive pipeline as it is; see `_as`."""
    return _as(DallePipeline, pipe, name, "an autoregressive pipeline, such as toybox/dalle, is needed")


def as_unclip(pipe: DiffusionPipeline, name: str) -> UnCLIPPipeline:
    """A DALL·E 2 system, or its decoder, as it is; see `_as`."""
    needed = "a decoder of image embeddings, as `t2i train unclip-decoder` makes it, is needed"
    return _as(UnCLIPPipeline, pipe, name, needed)


def _as(cls: type[Pipeline], pipe: DiffusionPipeline, name: str, needed: str) -> Pipeline:
    """A pipeline of a class as it is.

    Args:
        name, needed: what was opened, and the remedy, for messages.

    Raises ValueError for other pipelines.
    """
    if not isinstance(pipe, cls):
        raise ValueError(f"{name} holds {with_article(type(pipe).__name__)}: {needed}")
    return pipe


def open_pipeline(
    name: str,
    device: str = "auto",
    lora: str | None = None,
    lora_scale: float | None = None,
    dtype: PipelineDtype | None = None,
) -> DiffusionPipeline:
    """`AutoPipeline.from_pretrained` on a device, with a LoRA; for command lines.

    Args:
        name: as in `AutoPipeline.from_pretrained`.
        device: "cpu", "cuda", …; "auto" is the fastest available.
        lora: a folder of `t2i train lora`, or a LoRA file.
        lora_scale: weight of the LoRA, by default 1.
        dtype: of the weights in memory and the computation, by default float32; "int8" as `CodePipeline.use_int8`.

    Raises ValueError for a device or a dtype that cannot be used, and for a LoRA that the pipeline does not take;
    FileNotFoundError for a LoRA that does not exist.
    """
    check_options({"lora_scale": lora_scale}, flags=True)
    lora_file = find_lora(lora, lora_scale)
    for library in (logging, transformers.utils.logging):
        library.disable_progress_bar()  # loading is quick
    pipe = AutoPipeline.from_pretrained(name, getattr(torch, dtype) if dtype not in (None, "int8") else None)
    if dtype == "int8" and not isinstance(pipe, CodePipeline):
        raise ValueError(f"{name} has no prior over image tokens, which int8 is for: give another --dtype, or none")
    if lora_file is not None:
        add_lora(pipe, name, lora_file, 1.0 if lora_scale is None else lora_scale)
    pipe = to_device(pipe, device)
    if dtype == "int8":
        pipe.use_int8()
    return pipe


def _pipeline_class(config: dict, index: str | Path) -> type[DiffusionPipeline]:
    """The class for a model_index.json; `index` is its path or name, for messages."""
    import diffusers

    name = str(config.get("_class_name"))
    if name == "StableDiffusionPipeline" and config.get("_made_by") == "t2i":
        return LatentDiffusionPipeline  # saved under a name that diffusers knows
    cls = PIPELINES.get(name) or getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, DiffusionPipeline):
        raise ValueError(f"{index} names {name!r}, which is no pipeline of t2i nor of this version of diffusers")
    return cls


def _with_text_model(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """diffusers' `clip_skip` needs `text_encoder.text_model`, which transformers 5 has removed: an alias for it."""
    encoder = pipe.components.get("text_encoder")
    if isinstance(encoder, transformers.CLIPTextModel) and not hasattr(encoder, "text_model"):
        vars(encoder)["text_model"] = encoder  # not as a submodule, which would contain itself
    return pipe


def _prior_alone(folder: Path) -> str:
    """What to do with a prior of DALL·E 2 that was trained without a decoder; "" for other folders."""
    config = newest_in_run(folder, CONFIG) / CONFIG
    name = read_json(config).get("_class_name") if config.is_file() else None
    if name not in ("DiffusionPrior", "AutoregressivePrior"):
        return ""
    return f", but holds a {name} alone: give `t2i train unclip-prior` a --decoder, or in Python open that with prior="


def _unknown(name: str) -> str:
    known = list(embedded())
    parent = Path(name).parent
    folders = [str(p) for p in parent.iterdir() if p.is_dir()] if parent != Path() and parent.is_dir() else []
    near = nearest(name, [*known, *folders])
    hint = f" Did you mean {near!r}?" if near else ""
    return f"there is no pipeline {name!r}.{hint} Embedded: {', '.join(known) or 'none'}; or give a folder or a Hub id."
