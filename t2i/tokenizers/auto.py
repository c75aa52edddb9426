"""Opening a trained image tokenizer of any class from its folder."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name

from t2i.checks import UsageError
from t2i.files import read_json
from t2i.folders import newest_in_run
from t2i.manifest import verify
from t2i.notes import with_article
from t2i.tokenizers.base import ImageTokenizer
from t2i.weights import load_model

CLASSES = {  # by the name in config.json
    "VQVAE": "t2i.tokenizers.vqvae:VQVAE",
    "FSQVAE": "t2i.tokenizers.fsq:FSQVAE",
    "DiscreteVAE": "t2i.tokenizers.dvae:DiscreteVAE",
    "OpenAIDiscreteVAE": "t2i.tokenizers.openai_dvae:OpenAIDiscreteVAE",
    "VQModel": "t2i.tokenizers.vqmodel:VQModel",
    "GumbelVQModel": "t2i.tokenizers.vqmodel:GumbelVQModel",
}
REMEDY = "make one with: t2i train vqvae-toybox, and give its folder"


def open_image_tokenizer(folder: str | Path) -> ImageTokenizer:
    """The frozen tokenizer in `folder` (a model, a run's newest checkpoint, or a pipeline that has one), in eval mode.

    Raises FileNotFoundError or ValueError, with the command that trains one.
    """
    pipeline = newest_in_run(folder, "model_index.json")
    in_pipeline = (pipeline / "image_tokenizer").is_dir()
    newest = pipeline if in_pipeline else newest_in_run(folder, "config.json")
    verify(newest)
    newest = newest / "image_tokenizer" if in_pipeline else newest
    config = newest / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"there is no image tokenizer in {folder}; {REMEDY}")
    kind = str(read_json(config).get("_class_name"))
    if kind not in CLASSES:
        raise UsageError(f"{folder} holds {with_article(kind)}, which is no image tokenizer; {REMEDY}")
    return load_model(resolve_name(CLASSES[kind]), newest).requires_grad_(False)
