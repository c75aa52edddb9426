"""Effect of a single word of the prompt, and distribution of attributes that a prompt leaves unspecified.

Counterfactual prompts (in the sense of Kusner et al. 2017, arXiv 1703.06856): two prompts that differ in one word, with
the same generators. The word should change what it names and nothing else. Bare prompts, such as "a cat", show which
attributes the model generates by default.

Shapes: A attributes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, Scene, Thing
from t2i.data.toybox_v1.captions import name
from t2i.data.toybox_v1.classifier import Prediction
from t2i.eval.evaluators.compositional import check_world, thumbnail
from t2i.eval.generation.prompt import Prompt
from t2i.eval.report import Gallery, Score
from t2i.eval.run import EvalRun
from t2i.eval.scores import Result, share_score
from t2i.weights import digest

PAIRS, BARE = 0.05, 0.25  # fractions of --num-images: counterfactual pairs per swap, and bare prompts
SWAPS = ("kind", "attribute")  # in the order of a prediction
SHOWN = 8  # pairs per swap in the gallery


def check(run: EvalRun) -> None:
    """Raise UsageError for prompts of toybox."""
    check_world(run)


def evaluate(run: EvalRun) -> Result:
    """For a changed kind and a changed attribute, how often the images follow it and keep the rest; and how far the
    attributes that prompts leave open are from evenly distributed.

    Raises UsageError for targets that are no pipeline, as `EvalRun.generate` does, and for prompts of toybox.
    """
    check(run)
    seed, pairs = run.config.seed, sample_pairs(run.fraction(PAIRS), run.config.seed)
    prompts = pair_prompts(pairs) + bare_prompts(run.fraction(BARE))
    files, details = run.generate("bias", prompts), {"classifier_sha256": digest(run.models.classifier)}
    predictions, bare = run.predictions(files), 3 * len(pairs)
    scores = counterfactual_scores(pairs, predictions[:bare], details)
    scores.append(open_attributes_score(predictions[bare:], seed, details))
    rows = [i for swap in SWAPS for i in [i for i, pair in enumerate(pairs) if pair.swap == swap][:SHOWN]]
    shown = [(thumbnail(run, files[k]), prompts[k].text) for i in rows for k in (i, len(pairs) + i)]
    return Result("bias", scores, galleries=[Gallery("One word changed", shown)])


@dataclass(frozen=True)
class Pair:
    """Two one-thing scenes, and hence canonical captions, that differ in `swap` only."""

    swap: str
    first: Scene
    second: Scene


def sample_pairs(num: int, seed: int) -> list[Pair]:
    """`num` pairs for each of SWAPS. Pair i depends on (seed, swap, i) only; none is a held-out combination."""
    return [_pair(swap, np.random.default_rng((seed, SWAPS.index(swap), i, 5))) for swap in SWAPS for i in range(num)]


def _pair(swap: str, rng: np.random.Generator) -> Pair:
    names = tuple(KINDS) if swap == "kind" else tuple(ATTRIBUTES)
    first = Scene.sample(rng, "train", "single")
    thing = first.things[0]
    for i in rng.permutation(len(names)):
        if names[i] in (thing.kind, thing.attribute):  # the current word; and nothing is made of itself
            continue
        other = replace(thing, **{swap: names[i]})
        if not other.held_out:
            return Pair(swap, first, replace(first, things=(other,)))
    raise AssertionError("every kind and attribute is seen with more than one partner")


def pair_prompts(pairs: Sequence[Pair]) -> list[Prompt]:
    """The first prompt of each pair, the second of each, and the second of each again.

    Both prompts of a pair share a key, so that their images have the same generator; the third has its own key.
    """
    first, second = [p.first.caption() for p in pairs], [p.second.caption() for p in pairs]
    return [*_prompts("pair", first), *_prompts("pair", second), *_prompts("again", second)]


def bare_prompts(num: int) -> list[Prompt]:
    """The first `num` of "a cat", "a house", …, repeating as needed."""
    kinds = [tuple(KINDS)[i % len(KINDS)] for i in range(num)]
    return _prompts("bare", [name(Thing(kind, ATTRIBUTES[0]), bare=True) for kind in kinds])


def _prompts(what: str, texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(text, what, None, f"{what}/{i:04}") for i, text in enumerate(texts)]


def counterfactual_scores(pairs: Sequence[Pair], predictions: Sequence[Prediction], details: dict) -> list[Score]:
    """For each of SWAPS, the share of pairs in which the word was followed, and in which the rest was unchanged.

    followed: each image shows the word of its prompt.
    rest unchanged: the other of kind and attribute, and the number of things, are predicted equal for both images; the
    ceiling is the same for two images of one prompt with different generators.

    Args:
        predictions: for the images of `pair_prompts`, in order.
    """
    n, scores = len(pairs), []
    first, second, again = predictions[:n], predictions[n : 2 * n], predictions[2 * n :]
    for place, swap in enumerate(SWAPS):
        rows = [i for i, pair in enumerate(pairs) if pair.swap == swap]
        followed = [
            _word(first[i], place) == _word(Prediction.of(pairs[i].first), place)
            and _word(second[i], place) == _word(Prediction.of(pairs[i].second), place)
            for i in rows
        ]
        kept = [_rest(first[i], place) == _rest(second[i], place) for i in rows]
        by_chance = [_rest(second[i], place) == _rest(again[i], place) for i in rows]
        about = details | {"ceiling": "two images of one prompt"}
        scores.append(share_score(f"counterfactual {swap}: followed", followed, details=details))
        scores.append(share_score(f"counterfactual {swap}: rest unchanged", kept, by_chance, details=about))
    return scores


def open_attributes_score(predictions: Sequence[Prediction], seed: int, details: dict) -> Score:
    """Non-uniformity of the attributes generated for `bare_prompts`: half the sum of |share − 1 / A|.

    0 if all are equally frequent, always below 1; the ceiling is the mean for equally many uniform random attributes.
    """
    num, counts = len(predictions), Counter(_word(p, SWAPS.index("attribute")) for p in predictions)
    even = np.random.default_rng(seed).multinomial(num, [1 / len(ATTRIBUTES)] * len(ATTRIBUTES), size=1000)
    value, best = _from_even([counts[name] for name in ATTRIBUTES]), float(np.mean([_from_even(row) for row in even]))
    about = details | {"ceiling": "as many uniform samples", "counts": dict(counts.most_common())}
    name = "unspecified attributes: total variation from uniform"
    return Score(name, value, None, None, num, "lower", best, details=about, share=True)


def _word(prediction: Prediction, place: int) -> str:
    return prediction.things[0][place]


def _rest(prediction: Prediction, place: int) -> tuple[str, str]:
    return prediction.layout, prediction.things[0][1 - place]


def _from_even(counts: Sequence[int]) -> float:
    shares = np.asarray(counts) / np.sum(counts)
    return float(np.abs(shares - 1 / len(shares)).sum() / 2)
