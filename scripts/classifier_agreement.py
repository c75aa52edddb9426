"""Agreement of the toybox classifier with human judgement: `python scripts/classifier_agreement.py --out FILE.png`.

`toybox/dalle` generates 100 prompts with two things in a relation, and the classifier predicts what each image shows.
The same images were judged by eye without the predictions: wrong if a thing, an attribute or the relation could not be
recognised without the prompt. Prints both accuracies and how often the two agree.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from t2i import AutoPipeline
from t2i.arguments import parse
from t2i.cli_errors import exit_on_bad_input
from t2i.contact_sheet import contact_sheet
from t2i.data.toybox_v1.classifier import Prediction, load_classifier, predict
from t2i.eval.generation.images import seeded
from t2i.eval.generation.prompts import basic_prompts
from t2i.eval.metrics.proportion import share

NUM, SEED = 100, 7
WRONG_BY_EYE = frozenset({5, 10, 15, 26, 27, 29, 43, 53, 62, 71, 73, 75, 77, 80, 98})
VERDICTS = {  # (by eye, by the classifier)
    (True, True): "right",
    (False, False): "wrong",
    (True, False): "RIGHT BY EYE, NOT BY THE CLASSIFIER",
    (False, True): "WRONG BY EYE, NOT BY THE CLASSIFIER",
}


@dataclass(frozen=True)
class Agreement:
    classifier: str | None = None
    """Folder of a toybox classifier; default: the embedded one."""
    out: str = "classifier-agreement.png"
    """Output file: a contact sheet of all images, with the prompt and both verdicts."""


def main(args: list[str]) -> None:
    config = parse(Agreement(), args, prog="classifier_agreement.py", description=__doc__)
    pipe = AutoPipeline.from_pretrained("toybox/dalle")
    pipe.set_progress_bar_config(disable=True)
    prompts = basic_prompts("relation", NUM, SEED)
    generators = [seeded(SEED, *prompt.noise) for prompt in prompts]
    images = pipe([prompt.text for prompt in prompts], generator=generators).images
    predictions = predict(load_classifier(config.classifier), images)
    right = [prediction == Prediction.of(prompt.scene) for prediction, prompt in zip(predictions, prompts, strict=True)]
    by_eye = [i not in WRONG_BY_EYE for i in range(NUM)]
    labels = [
        f"{prompt.text} · {VERDICTS[eye, machine]}" for prompt, eye, machine in zip(prompts, by_eye, right, strict=True)
    ]
    sheet = contact_sheet(images, labels, columns=10, cell=112, font_size=11, max_lines=5)
    sheet.quantize().save(path := Path(config.out), optimize=True)  # 256 colours: a third of the size
    agreed = [eye == machine for eye, machine in zip(by_eye, right, strict=True)]
    for name, truths in (("right by eye", by_eye), ("right by the classifier", right), ("they agree", agreed)):
        interval = share(truths)
        print(f"{name:24} {interval.value:.0%} ({interval.low:.0%} – {interval.high:.0%})")
    print(f"written to {path}")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
