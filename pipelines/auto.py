"""One name for every pipeline: the embedded ones, a folder, or a model of the Hub."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as LORA
from diffusers.utils import logging

from t2i.cli_errors import Dtype
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.latent_conditioned import LatentDiffusionLayoutPipeline, LatentDiffusionUpscalePipeline
from t2i.pipelines.latent_diffusion import LatentDiffusionPipeline
from t2i.pipelines.latent_editing import LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline

WEIGHTS = Path(__file__).parent / "weights"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
_OURS = (
    DallePipeline,
    LatentDiffusionPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionUpscalePipeline,
    LatentDiffusionLayoutPipeline,
)
PIPELINES = {cls.__name__: cls for cls in _OURS}
PIPELINES["StableDiffusionPipeline"] = LatentDiffusionPipeline  # the same components, drawn with in our own way


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
    def from_pretrained(name: str | Path, dtype: torch.dtype | None = None, **kwargs) -> DiffusionPipeline:
        """Open an embedded system (no network), a folder with model_index.json, or a model of the Hub.

        Args:
            name: "toybox/dalle", "runs/prior-toybox/latest", "CompVis/stable-diffusion-v1-4", …
            dtype: of the weights in memory, float32 by default (the embedded ones are stored in half precision);
                `torch_dtype`, its older name in diffusers, is understood too.
            kwargs: go to the pipeline class's own `from_pretrained`.

        Raises FileNotFoundError, listing the embedded systems and the nearest to `name`, when it is none of these.
        """
        kwargs["dtype"] = kwargs.pop("torch_dtype", None) or dtype or torch.float32
        source = embedded().get(str(name), Path(name))
        if (index := source / "model_index.json").is_file():
            cls = _pipeline_class(json.loads(index.read_text())["_class_name"])
            return cls.from_pretrained(str(source), **kwargs)
        if (source / LORA).is_file():
            raise FileNotFoundError(
                f"{source} holds a LoRA, which changes the pipeline it was trained on: open that one, and add "
                f"--lora {source} at the command line, or pipe.load_lora_weights({str(source)!r}) in Python"
            )
        if source.exists():
            raise FileNotFoundError(f"{source} is not a pipeline: it has no model_index.json")
        if not _may_be_on_hub(str(name)):
            raise FileNotFoundError(_unknown(str(name)))
        try:
            where = {k: kwargs[k] for k in HUB_OPTIONS if k in kwargs}
            config = DiffusionPipeline.load_config(str(name), **where)
        except OSError as error:
            raise FileNotFoundError(f"{_unknown(str(name))} The Hub says: {str(error).splitlines()[0]}") from error
        return _pipeline_class(config["_class_name"]).from_pretrained(str(name), **kwargs)


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
    _check_lora(lora, lora_scale)
    for library in (logging, transformers.utils.logging):
        library.disable_progress_bar()  # of loading, which takes no time
    device = fastest_device() if device == "auto" else device
    pipe = AutoPipeline.from_pretrained(name, dtype and getattr(torch, dtype))
    if lora is not None:
        _add_lora(pipe, name, lora, 1.0 if lora_scale is None else lora_scale)
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {str(error).splitlines()[0]}") from error


def _check_lora(lora: str | None, scale: float | None) -> None:
    if lora is None and scale is not None:
        raise ValueError("--lora-scale says how much of a LoRA to add: give its folder with --lora")
    if lora is None or Path(lora).is_file() or (Path(lora) / LORA).is_file():
        return
    if (Path(lora) / "latest" / LORA).is_file():
        raise FileNotFoundError(f"{lora} is a training run; its LoRA is --lora {Path(lora) / 'latest'}")
    raise FileNotFoundError(f"there is no LoRA in {lora!r}: `t2i train lora` makes a folder with {LORA}")


def _add_lora(pipe: DiffusionPipeline, name: str, lora: str, scale: float) -> None:
    if not hasattr(pipe, "load_lora_weights") or not hasattr(getattr(pipe, "unet", None), "load_lora_adapter"):
        raise ValueError(f"{name} takes no LoRA: --lora is for latent diffusion with a U-Net, as toybox/ldm is")
    loud = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # or each matrix that does not fit has a line of its own
    try:
        pipe.load_lora_weights(lora, adapter_name="lora")
        pipe.set_adapters(["lora"], [scale])
    except (RuntimeError, ValueError, LookupError) as error:  # shapes or names that are not the denoiser's
        why = " ".join(str(error).split("\n")[:2])[:300]
        raise ValueError(f"{lora} was not trained on {name}, which cannot take it: {why}") from error
    finally:
        logging.set_verbosity(loud)


def fastest_device() -> str:
    """ "cuda", "mps" or "cpu": what "auto" stands for."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _pipeline_class(name: str) -> type[DiffusionPipeline]:
    import diffusers

    cls = PIPELINES.get(name) or getattr(diffusers, name, None)
    if cls is None:
        raise ValueError(f"neither t2i nor this version of diffusers has a pipeline {name!r}")
    return cls


def _may_be_on_hub(name: str) -> bool:
    """Hub ids are "owner/model"; the owner "toybox" is ours, so a typing error there asks no network."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "toybox/"))


def _unknown(name: str) -> str:
    known = list(embedded())
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no pipeline {name!r}.{hint} Embedded: {', '.join(known) or 'none'}; or give a folder or a Hub id."
