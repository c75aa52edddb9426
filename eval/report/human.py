"""Human preference between image pairs: a blind page for raters, and win rates and Elo ratings from their choices.

For each prompt the page shows two images in random left–right order, without system names; those are in key.json,
which stays with the experimenter. Choices are returned as answers.json files, one per rater.

Shapes: S systems · P prompts · R resamples
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.eval.metrics import proportion
from t2i.eval.report import Score
from t2i.eval.report.html import EXACT, PIXELATED, data_uri, render
from t2i.files import write_whole
from t2i.tables import format_table

CHOICES = ("left", "right", "tie")
QUESTION = "Which image matches the description better?"
ELO_MEAN, ELO_SCALE = 1000.0, 400 / np.log(10)


# --- the page -------------------------------------------------------------------------------------------------------


def make_page(
    systems: Mapping[str, Sequence[Image.Image]],
    prompts: Sequence[str],
    out: Path,
    seed: int = 0,
) -> None:
    """Write human.html, the page for raters, and key.json, which identifies the systems, to the folder `out`.

    Each pair of systems is compared once per prompt. The order of the questions is determined by the seed, and each
    system of a pair is on the left as often as on the right (once more if P is odd). Images carry no metadata; all
    images of a page have one format and are shown at one size.

    Args:
        systems: at least two; name to P images, one for each prompt.
        out: created if needed. Do not give key.json to raters.

    Raises ValueError for fewer than two systems, no prompts, or if images and prompts differ in number.
    """
    if len(systems) < 2 or not prompts:
        raise ValueError(f"a comparison needs 2 systems and a prompt, not {len(systems)} and {len(prompts)}")
    for name, images in systems.items():
        if len(images) != len(prompts):
            raise ValueError(f"{name} has {len(images)} images for {len(prompts)} prompts; give one for each")
    rng = np.random.default_rng(seed)
    questions = _questions(list(systems), len(prompts), rng)
    places = [(name, i) for name in systems for i in range(len(prompts))]
    places = [places[i] for i in rng.permutation(len(places))]  # sorted by system, the order would reveal the systems
    at = {place: i for i, place in enumerate(places)}
    shown = [
        {"id": q, "prompt": prompts[i], "left": at[left, i], "right": at[right, i]}
        for q, (i, left, right) in questions.items()
    ]
    largest = max(max(image.size) for images in systems.values() for image in images)
    data = {"question": QUESTION, "questions": shown, "pixelated": largest <= PIXELATED}
    data["images"] = [data_uri(systems[name][i], largest <= EXACT) for name, i in places]
    data["page"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    key = {"page": data["page"], "seed": seed, "systems": list(systems), "prompts": list(prompts)}
    key["questions"] = {q: {"prompt": i, "left": left, "right": right} for q, (i, left, right) in questions.items()}
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "human.html", render("human.html.jinja", "human", title=QUESTION, data=data))
    write_whole(out / "key.json", json.dumps(key, indent=2, ensure_ascii=False) + "\n")


def _questions(names: list[str], num: int, rng: np.random.Generator) -> dict[str, tuple[int, str, str]]:
    """Opaque id -> (prompt number, left, right), in the order of the questions."""
    questions = []
    for a, b in combinations(names, 2):
        turned = rng.permutation(np.arange(num) + rng.integers(2)) % 2
        questions += [(i, b, a) if turned[i] else (i, a, b) for i in range(num)]
    return {f"q{k:05d}": questions[i] for k, i in enumerate(rng.permutation(len(questions)))}


# --- the answers ----------------------------------------------------------------------------------------------------


def tally(answers: Sequence[Mapping], key: Mapping, seed: int = 0, resamples: int = 1000) -> dict:
    """Win rates of each pair of systems, and a table of their Elo ratings.

    Args:
        answers: the contents of answers.json files, one per rater:
            {"page", "rater", "answers": [{"question", "choice": "left" | "right" | "tie"}, …]}.
        key: the content of key.json.
        seed: seed of the bootstrap.

    Returns plain data:
        pairs: for each pair of systems {"a", "b", "wins", "losses", "ties", "rate"}, from the perspective of `a`. The
            rate is the win rate, with a tie as half a win, and its Wilson interval, {"value", "low", "high", "n"}; None
            without answers. Answers are treated as independent: with several raters per prompt the true interval is
            somewhat wider.
        elo: for each system {"system", "elo", "low", "high", "n"}, best first: see `elo`.
        left: how often the left image won, as `rate`; far from one half, raters have a side bias.
        raters, answered, skipped: their numbers; `skipped` counts questions left unanswered.

    Raises ValueError for no answers, answers to another page, unknown questions or choices, a question answered twice,
    and two files by one rater.
    """
    votes = _votes(answers, key)
    names, prompts = list(key["systems"]), len(key["prompts"])
    place = {name: i for i, name in enumerate(names)}
    points = np.zeros((prompts, len(names), len(names)))  # [p, i, j]: points of i against j; half for a tie
    counts: Counter = Counter()
    left = 0.0
    for question, choice in votes:
        shown = key["questions"][question]
        for_left = {"left": 1.0, "tie": 0.5, "right": 0.0}[choice]
        i, j = place[shown["left"]], place[shown["right"]]
        points[shown["prompt"], i, j] += for_left
        points[shown["prompt"], j, i] += 1 - for_left
        left += for_left
        counts[(i, j, "tie") if choice == "tie" else (i, j, "win") if choice == "left" else (j, i, "win")] += 1
    return {
        "pairs": [_pair(names, i, j, counts) for i, j in combinations(range(len(names)), 2)],
        "elo": elo(names, points, seed, resamples),
        "left": _rate(left, len(votes)),
        "raters": len(answers),
        "answered": len(votes),
        "skipped": len(answers) * len(key["questions"]) - len(votes),
    }


def _votes(answers: Sequence[Mapping], key: Mapping) -> list[tuple[str, str]]:
    """(question, choice) of every answer, after validating all of them."""
    votes, raters = [], set()
    for sheet in answers:
        if not {"page", "rater", "answers"} <= sheet.keys():
            raise ValueError("these are not the answers of a rater; give the answers.json that the page saved")
        rater = sheet["rater"]
        if sheet["page"] != key["page"]:
            raise ValueError(
                f"rater {rater} answered page {sheet['page']}, not {key['page']}; give that page's key.json"
            )
        if rater in raters:
            raise ValueError(f"rater {rater} is given twice and would count twice; give only the last file")
        raters.add(rater)
        answered: set[str] = set()
        for answer in sheet["answers"]:
            question, choice = answer.get("question"), answer.get("choice")
            if question not in key["questions"] or choice not in CHOICES:
                raise ValueError(f"rater {rater} answered {question!r} with {choice!r}, which the page does not offer")
            if question in answered:
                raise ValueError(
                    f"rater {rater} answered question {question} twice; give the file as the page saved it"
                )
            answered.add(question)
            votes.append((question, choice))
    if not votes:
        raise ValueError("there are no answers to count; give answers.json files that the page saved")
    return votes


def _rate(points: float, n: int) -> dict:
    interval = proportion(points, n)
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n}


def _pair(names: list[str], i: int, j: int, counts: Counter) -> dict:
    wins, losses, ties = counts[i, j, "win"], counts[j, i, "win"], counts[i, j, "tie"] + counts[j, i, "tie"]
    n = wins + losses + ties
    rate = _rate(wins + ties / 2, n) if n else None
    return {"a": names[i], "b": names[j], "wins": wins, "losses": losses, "ties": ties, "rate": rate}


# --- Elo ------------------------------------------------------------------------------------------------------------


def elo(names: Sequence[str], points: np.ndarray, seed: int = 0, resamples: int = 1000) -> list[dict]:
    """Ratings with mean 1000, best first; a difference of 400 corresponds to odds of 10 to 1.

    The strengths are those of Bradley & Terry (1952), P(i beats j) = σ(θᵢ − θⱼ), fitted by maximum likelihood with one
    tie added for each pair of systems. That keeps them finite if a system has won everything; for two systems it is
    Firth's (1993) bias reduction. Intervals are 95 % percentile bootstrap over prompts, since answers to one prompt are
    correlated. They are None if the likelihood has no finite maximum without the added ties (a group of systems never
    lost a point to the others; Ford 1957), or if fewer than two prompts were answered.

    Args:
        points: (P, S, S), ≥ 0; [p, i, j] are the points of system i against system j on prompt p.
    """
    strengths = bradley_terry(points.sum(0)[None])[0]
    low = high = [None] * len(names)
    points = points[points.sum((1, 2)) > 0]
    if len(points) > 1 and _connected(points.sum(0)):
        prompts, (systems, _) = len(points), points.shape[1:]
        weights = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
        resampled = bradley_terry((weights @ points.reshape(prompts, -1)).reshape(resamples, systems, systems))
        low, high = (ELO_MEAN + ELO_SCALE * np.quantile(resampled, [0.025, 0.975], axis=0)).tolist()
    n = (points.sum((0, 1)) + points.sum((0, 2))).round().astype(int)
    rows = [
        {
            "system": name,
            "elo": float(ELO_MEAN + ELO_SCALE * strengths[i]),
            "low": low[i],
            "high": high[i],
            "n": int(n[i]),
        }
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row["elo"])


def bradley_terry(points: np.ndarray) -> np.ndarray:
    """Strengths θ (R, S) with mean 0 from points (R, S, S), with one tie added for each pair of systems.

    Newton's method on the concave log-likelihood Σ wᵢⱼ log σ(θᵢ − θⱼ), for all resamples at once.
    """
    systems = points.shape[-1]
    off = 1 - np.eye(systems)
    won = (points + 0.5) * off
    met = won + won.swapaxes(1, 2)
    theta = np.zeros(points.shape[:2])
    for _ in range(100):
        p = 1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))  # [i, j]: probability that i beats j
        gradient = won.sum(2) - (met * p).sum(2)
        weight = met * p * (1 - p)
        curvature = weight.sum(2)[:, :, None] * np.eye(systems) - weight + 1 / systems  # the last term fixes the mean
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0].clip(-2, 2)  # a larger step may overshoot
        theta = theta + step - step.mean(1, keepdims=True)
        if np.abs(step).max() < 1e-10:
            return theta
    raise FloatingPointError("the strengths did not converge: points must be finite and at least 0")


def _connected(points: np.ndarray) -> bool:
    """Whether each system scored points, directly or through others, against every other."""
    reach = (points > 0) | np.eye(len(points), dtype=bool)
    for _ in range(len(points)):
        reach = reach @ reach
    return bool(reach.all())


def scores(result: Mapping) -> list[Score]:
    """The results of `tally` as scores of a report: win rates of the pairs with answers, then the ratings."""
    rates = [(f"{p['a']} over {p['b']}", p["rate"]) for p in result["pairs"] if p["rate"]]
    wins = [Score(name, r["value"], r["low"], r["high"], r["n"], share=True) for name, r in rates]
    return wins + [
        Score(f"Elo of {r['system']}", r["elo"], r["low"], r["high"], r["n"], "higher") for r in result["elo"]
    ]


def table(result: Mapping) -> str:
    """The results of `tally` as text: the ratings, then the pairs."""
    elo = [[r["system"], f"{r['elo']:.0f}", _interval(r, ".0f"), str(r["n"])] for r in result["elo"]]
    pairs = []
    for pair in result["pairs"]:
        name, rate = f"{pair['a']} over {pair['b']}", pair["rate"]
        if rate is None:
            pairs.append([name, "no answers", "", "", "", ""])
        else:
            counts = [str(pair[key]) for key in ("wins", "losses", "ties")]
            pairs.append([name, f"{rate['value']:.1%}", _interval(rate, ".1%"), *counts])
    left = result["left"]
    return "\n\n".join(
        [
            format_table(["system", "Elo", "95 % interval", "answers"], elo, right=(1, 2, 3)),
            format_table(["pair", "win rate", "95 % interval", "wins", "losses", "ties"], pairs, right=(1, 2, 3, 4, 5)),
            f"left image chosen: {left['value']:.1%} ({_interval(left, '.1%')})\n{result['answered']} answers from "
            f"{result['raters']} raters, {result['skipped']} questions unanswered",
        ]
    )


def _interval(rate: Mapping, form: str) -> str:
    return "–" if rate["low"] is None else f"{rate['low']:{form}} – {rate['high']:{form}}"
