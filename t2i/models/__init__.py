"""The unconditional models, one family per file, with the shared interface `base.GenerativeModel`."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name

from t2i.files import read_json
from t2i.folders import newest_in_run
from t2i.manifest import verify
from t2i.notes import with_article
from t2i.runs import BEST

CLASSES = {  # class name in config.json: module and class
    "LinearMixture": "t2i.models.linear.linear_mixture:LinearMixture",
    "Autoencoder": "t2i.models.latent_variable.autoencoder:Autoencoder",
    "VAE": "t2i.models.latent_variable.vae:VAE",
    "HierarchicalVAE": "t2i.models.latent_variable.hierarchical_vae:HierarchicalVAE",
    "PixelRNN": "t2i.models.autoregressive.pixelrnn:PixelRNN",
    "PixelCNN": "t2i.models.autoregressive.pixelcnn:PixelCNN",
    "GatedPixelCNN": "t2i.models.autoregressive.gated_pixelcnn:GatedPixelCNN",
    "PixelCNNpp": "t2i.models.autoregressive.pixelcnn_pp:PixelCNNpp",
    "NICE": "t2i.models.flows.nice:NICE",
    "RealNVP": "t2i.models.flows.realnvp:RealNVP",
    "Glow": "t2i.models.flows.glow:Glow",
    "DDPM": "t2i.models.diffusion.ddpm:DDPM",
    "ScoreSDE": "t2i.models.diffusion.score_sde:ScoreSDE",
    "GAN": "t2i.models.adversarial.gan:GAN",
}
OTHERS = {  # with other interfaces
    "CycleGAN": "t2i.models.adversarial.cyclegan",
    "MultimodalVAE": "t2i.models.latent_variable.multimodal_vae",
    "CharacterModel": "t2i.models.autoregressive.characters",
}


def load_pretrained(folder: str | Path):
    """Load the model of any family saved in `folder`, or the best one of a run, in eval mode.

    Raises FileNotFoundError or ValueError if there is none, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        best = folder / BEST
        folder = best if (best / "config.json").is_file() else newest_in_run(folder, "config.json")
    config = folder / "config.json"
    verify(folder)
    if not config.is_file():
        raise FileNotFoundError(_no_model(folder))
    from t2i.weights import load_model  # imported here: it takes seconds

    name = read_json(config).get("_class_name")
    if name in OTHERS:
        raise ValueError(
            f"{folder} holds a {name}, which `t2i sample` and `t2i eval` do not take: open it in Python with "
            f"{OTHERS[name]}.{name}.from_pretrained({str(folder)!r})"
        )
    if name not in CLASSES:
        raise ValueError(
            f"{folder} holds {with_article(str(name))}, which is no unconditional model: there are {', '.join(CLASSES)}"
        )
    model = load_model(resolve_name(CLASSES[name]), folder)
    if bad := [key for key, value in model.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(f"{folder} holds numbers that are not finite, in {bad[0]}: train it again")
    return model


def _no_model(folder: Path) -> str:
    """Why `folder` holds no unconditional model, and what to do."""
    if not folder.exists():
        return f"there is no model in {folder}, which does not exist: give the folder of a run, such as runs/vae"
    if (folder / "model_index.json").is_file():
        return f"{folder} holds a pipeline, not an unconditional model: t2i generate PROMPT --pipeline {folder}"
    return (
        f"there is no model in {folder}: it has no config.json; give the folder of a run of an unconditional model, as "
        "`t2i train vae` makes one"
    )
