"""What an evaluation is asked for, as its command line has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from t2i.checks import check_options, check_seeds, check_whole
from t2i.devices import Dtype
from t2i.files import check_folder

NUMBERS = ("guidance_scale", "temperature", "top_k", "top_p", "num_candidates", "num_inference_steps")
WHOLE = ("top_k", "num_candidates", "num_inference_steps")  # of these, whole numbers
OPTIONS = (*NUMBERS, "scheduler")  # of pipelines, given only if asked for


@dataclass(frozen=True)
class Ask:
    pipeline: str = "toybox/dalle"
    """An embedded system, a folder, a model of the Hub; or a folder of pictures."""
    prompts: str = "toybox"
    """'toybox' (all categories), 'toybox/CATEGORY', 'lecture', or a file with a prompt a line."""
    reference: str = "toybox"
    """Real pictures to compare with: 'toybox' draws the scenes of the prompts, or a folder, or a .npz of statistics."""
    training: str | None = None
    """Pictures that near copies are looked for in: 'toybox', or a folder; by default what the pipeline has seen."""
    training_num: int | None = None
    """How many of them, at most; by default ten for each picture drawn, and all of a folder."""
    num: int = 500
    """Pictures that are drawn, at most; spread evenly over the categories of toybox."""
    seed: int = 0
    """Fixes the prompts and the pictures."""
    out: str = "reports/eval"
    """Folder of report.json, report.html and the pictures. Pictures that are there already are not drawn again."""
    extractor: str = "reader"
    """Network of the features: reader, random, pixels, inception[:FILE], clip:…, open_clip:…, dinov2:…"""
    clip: str | None = None
    """CLIP for the CLIP score: clip:NAME_OR_FOLDER or open_clip:ARCH/PRETRAINED."""
    variant: str | None = None
    """What to call CLIP score: hessel, torchmetrics or cosine."""
    reader: str | None = None
    """Folder of the network that reads toybox pictures; by default the one that comes with the package."""
    batch_size: int = 32
    """Pictures drawn at once; halved where the memory does not suffice."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', … ; by default the fastest there is."""
    dtype: Dtype = "float32"
    """Precision in which the pipeline computes; scores are always computed in float32 or better."""
    allow_mixed: bool = False
    """Take folders that mix picture formats."""
    allow_mismatch: bool = False
    """Take statistics of another extractor version or size; the report says so."""
    guidance_scale: float | None = None
    """How closely to follow the prompt; by default the pipeline's own, as for the rest of these."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_candidates: int | None = None
    num_inference_steps: int | None = None
    scheduler: str | None = None
    """Another sampler of a diffusion pipeline, by name."""

    def __post_init__(self) -> None:
        for name, least in (("num", 1), ("batch_size", 1), ("training_num", 2)):
            if (value := getattr(self, name)) is not None:
                check_whole(f"--{name.replace('_', '-')}", value, least)
        check_seeds("--seed", self.seed)
        check_options({name: getattr(self, name) for name in OPTIONS}, flags=True)
        check_folder(self.out)


@dataclass(frozen=True)
class Sweep(Ask):
    num: int = 180
    """Pictures that are drawn for each value, at most; spread evenly over the categories of toybox."""
    out: str = "reports/sweep"
    """Folder of report.json, report.html, and a folder of pictures for each value."""
    over: Literal[NUMBERS] = "guidance_scale"
    """The option that is varied."""
    values: tuple[float, ...] = (1, 2, 3, 4, 6)
    """Its values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.values:
            whole = self.over in WHOLE and float(value).is_integer()
            check_options({self.over: int(value) if whole else value}, flags=True)


@dataclass(frozen=True)
class Bits:
    models: Positional[tuple[str, ...]] = ()
    """Folders of unconditional models, or of runs, whose best is taken."""
    data: str | None = None
    """Whose test pictures, named as for `t2i train`; by default of what each was trained on."""
    num: int = 1000
    """Test pictures, at most."""
    samples: int = 1
    """Draws of the latents for each picture: more make the bound of a VAE closer."""
    seed: int = 0
    """Fixes these draws, and those of dequantisation."""
    out: str = "reports/bits"
    """Folder of bits.csv."""
    batch_size: int = 100
    """Pictures scored at once."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("num", 2), ("samples", 1), ("batch_size", 1)):
            check_whole(f"--{name.replace('_', '-')}", getattr(self, name), least)
        check_seeds("--seed", self.seed)
        check_folder(self.out)
