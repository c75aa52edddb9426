"""Locating LoRA files (Hu et al. 2021, arXiv 2106.09685), checking them against a pipeline and adding them to it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as LORA
from diffusers.utils import convert_unet_state_dict_to_peft, logging
from safetensors import SafetensorError

from t2i.folders import newest_in_run
from t2i.manifest import verify

COMPONENTS = ("unet", "text_encoder")  # which are the prefixes of a LoRA file's keys


def find_lora(lora: str | None, scale: float | None) -> Path | None:
    """The file of a LoRA: `lora` itself, or the one in the folder `lora` or in the newest checkpoint of that run.

    Raises ValueError for a scale without a LoRA, FileNotFoundError where there is no file.
    """
    if lora is None:
        if scale is not None:
            raise ValueError("--lora-scale has no effect without --lora: give the LoRA's folder")
        return None
    if Path(lora).is_file():
        return Path(lora)
    if not (file := newest_in_run(lora, LORA) / LORA).is_file():
        raise FileNotFoundError(f"there is no LoRA in {lora!r}: `t2i train lora` makes a folder with {LORA}")
    return file


def add_lora(pipe: DiffusionPipeline, name: str, file: Path, scale: float) -> None:
    """Add a LoRA, completely or not at all, to a pipeline that was opened as `name`.

    Raises ValueError, naming the file, for one that is damaged or has a matrix that does not fit.
    """
    if not hasattr(pipe, "load_lora_weights") or not hasattr(getattr(pipe, "unet", None), "load_lora_adapter"):
        raise ValueError(f"{name} takes no LoRA: --lora is for latent diffusion with a U-Net, such as toybox/ldm")
    verify(file.parent)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what diffusers only warns about is an error here
    try:
        options = {"weight_name": file.name, "local_files_only": True}
        state = pipe.lora_state_dict(str(file.parent), unet_config=pipe.unet.config, **options)[0]
        _check_fit(pipe, name, file, convert_unet_state_dict_to_peft(state))  # also of older key names
        pipe.load_lora_weights(str(file.parent), adapter_name="lora", **options)
        pipe.set_adapters(["lora"], [scale])
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or incomplete ({error}): copy or train it again") from None
    except (RuntimeError, LookupError, OSError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{file} cannot be added to {name}: {why}") from error
    finally:
        logging.set_verbosity(verbosity)


def _check_fit(pipe: DiffusionPipeline, name: str, file: Path, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless each pair of matrices has a layer of its shape, and every number is finite."""
    pairs = sorted({key.rsplit(".lora_", 1)[0] for key in state if ".lora_" in key})
    odd = [key for key in state if ".lora_" not in key and not key.endswith(".alpha")]
    if not pairs:
        raise ValueError(f"{file} holds no LoRA: none of its {len(state)} tensors has the name of a LoRA's")
    misfits = [pair for pair in pairs if not _fits(pipe, state, pair)] + odd
    if misfits:
        fit = len(pairs) + len(odd) - len(misfits)
        raise ValueError(
            f"{file} was not trained on {name}: {fit} of its {len(pairs) + len(odd)} layers fit, and not "
            f"{misfits[0]}; open the --pipeline that it was trained on"
        )
    if bad := [key for key, value in state.items() if not value.isfinite().all()]:
        raise ValueError(f"{file} holds numbers that are not finite, in {bad[0]}: train it again")


def _fits(pipe: DiffusionPipeline, state: dict[str, torch.Tensor], pair: str) -> bool:
    """Whether matrices A (r, in) and B (out, r) are both there, for a layer with a weight (out, in)."""
    component, _, path = pair.partition(".")
    down, up = (state.get(f"{pair}.lora_{side}.weight") for side in "AB")
    model = getattr(pipe, component, None) if component in COMPONENTS else None
    if down is None or up is None or not isinstance(model, torch.nn.Module):
        return False
    layers = dict(model.named_modules())
    layer = layers.get(path) or layers.get(path.removeprefix("text_model."))  # a level that transformers 5 has removed
    if not isinstance(weight := getattr(layer, "weight", None), torch.Tensor) or weight.ndim < 2:
        return False
    return down.shape[1] == weight.shape[1] and up.shape[0] == weight.shape[0] and up.shape[1] == down.shape[0]
