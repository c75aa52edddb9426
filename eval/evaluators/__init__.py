"""The evaluators: one metric family per file, each with `evaluate(run: EvalRun) -> Result`.

To add a metric, write `evaluators/NAME.py` and add its line to EVALUATORS. `evaluate` runs on the main process; work
that needs a network or many images goes through `run`, which distributes it over all processes. A module may also
define `check(run)`, which raises before generating what `evaluate` would raise afterwards.

This module imports nothing heavy, so that help texts and option errors appear at once.
"""

from __future__ import annotations

PIPELINE, IMAGES, UNCONDITIONAL = KINDS = ("pipeline", "images", "unconditional")  # kinds of target

# Name (also the module's): description, and the kinds of target it is a default metric for.
EVALUATORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "compositional": (
        "Accuracy per prompt category of toybox-v1: attributes, counts, places, held out.",
        (PIPELINE,),
    ),
    "facts": ("Accuracy per prompt category of toybox, and of each type of fact.", KINDS[:2]),
    "fid": ("Fréchet distance; precision, recall, density, coverage; with Inception also the Inception score.", KINDS),
    "kid": ("Kernel Inception distance; with a CLIP extractor also CMMD.", KINDS),
    "clip_score": ("CLIP score (by --variant) and R-precision.", KINDS[:2]),
    "likelihood": (
        "Nats/token of a pipeline's image tokens; bits/dim of unconditional models.",
        (PIPELINE, UNCONDITIONAL),
    ),
    "reconstruction": ("PSNR and SSIM of real images through the image tokenizer.", (PIPELINE,)),
    "memorization": ("Share of near copies of training images.", KINDS),
    "bias": ("Effect of one word of the prompt; distribution of attributes it leaves open.", (PIPELINE,)),
    "lecture": (
        "Well-known prompts from lectures: an image each, and accuracy where toybox-v1 has the scene.",
        (PIPELINE,),
    ),
    "unconditional": ("Linear-probe accuracy of a latent-variable model's latents.", (UNCONDITIONAL,)),
    "two_sample": ("Accuracy of a network trained to tell generated from real images; not by default.", ()),
}

# Metrics that have prompts or a classifier of one world of toybox, and are no default for the other's prompts.
OF_WORLD = {"toybox": ("facts",), "toybox-v1": ("compositional", "bias", "lecture")}
