"""Make the pictures of the README again: `python scripts/make_pictures.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from t2i.cli_errors import exit_on_bad_input, parse
from t2i.data.toybox import Toybox, contact_sheet
from t2i.pipelines.cli import Generate, draw

DOCS = Path(__file__).parent.parent / "docs"
PROMPTS = (
    "an avocado armchair",  # the first six are held-out pairs
    "a zebra cactus",
    "a leopard robot",
    "a watermelon car",
    "a cat made of wood",
    "a starry night backpack",
    "a red cat on top of a blue car",
    "a black apple and a green backpack",
    "three polka dot mushrooms",
)


@dataclass(frozen=True)
class MakePictures:
    pipeline: str = "toybox/dalle"
    """Whose pictures to show."""


def main(args: list[str]) -> None:
    from t2i.pipelines import AutoPipeline

    ask = parse(MakePictures(), args, prog="make_pictures.py", description=__doc__)
    DOCS.mkdir(exist_ok=True)
    scenes = [Toybox(num=24, seed=1)[i] for i in range(24)]
    sheet = contact_sheet([s["scene"].render(128) for s in scenes], [s["text"] for s in scenes], columns=8, max_lines=3)
    sheet.save(DOCS / "toybox.png", optimize=True)
    wanted = Generate(prompts=PROMPTS, num_images=2)
    pictures = draw(AutoPipeline.from_pretrained(ask.pipeline), wanted)
    labels = [f"{prompt} · {seed}" for prompt in PROMPTS for seed in range(2)]
    contact_sheet(pictures, labels, columns=6, cell=128).save(DOCS / "gallery.png", optimize=True)
    print(DOCS / "toybox.png", DOCS / "gallery.png")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
