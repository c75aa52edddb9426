"""Blind comparison by people: the page hides the systems, and the tally obeys the laws of win rates and ratings."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from t2i.eval.metrics import proportion
from t2i.eval.report.human import bradley_terry, make_page, scores, table, tally
from t2i.files import read_json

NAMES = ("secret-alpha", "secret-beta", "secret-gamma")
PROMPTS = ["a cat", "a <script>dog</script>", "a cow", "an eel", "a fox"]


def systems(num: int = len(PROMPTS), names=NAMES) -> dict[str, list[Image.Image]]:
    """Every image has a unique colour."""
    return {name: [Image.new("RGB", (8, 8), (60 * k, 3 * i, 200)) for i in range(num)] for k, name in enumerate(names)}


def make(tmp_path, **more) -> tuple[str, dict]:
    """The page's text and the key."""
    make_page(**({"systems": systems(), "prompts": PROMPTS, "out": tmp_path, "seed": 0} | more))
    return (tmp_path / "human.html").read_text(), read_json(tmp_path / "key.json")


def payload(text: str) -> dict:
    return json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])


def key_for(names, num: int) -> dict:
    """A key as written by make_page, without generating a page."""
    pairs = [(i, a, b) for a, b in combinations(names, 2) for i in range(num)]
    questions = {f"q{k:05d}": {"prompt": i, "left": a, "right": b} for k, (i, a, b) in enumerate(pairs)}
    return {"page": "p", "systems": list(names), "prompts": [str(i) for i in range(num)], "questions": questions}


def sheet(key: dict, choose, rater: str = "r", page: str | None = None) -> dict:
    """The answers of a rater who calls choose(prompt number, left, right) at each question; None skips it."""
    chosen = {q: choose(a["prompt"], a["left"], a["right"]) for q, a in key["questions"].items()}
    answers = [{"question": q, "choice": choice} for q, choice in chosen.items() if choice]
    return {"page": page or key["page"], "rater": rater, "answers": answers}


def noisy(key: dict, strengths: dict[str, float], seed: int, rater: str = "r", ties: float = 0.0) -> dict:
    """A rater who follows the Bradley–Terry model, with strengths in Elo."""
    rng = np.random.default_rng(seed)

    def choose(_, left: str, right: str) -> str:
        p = 1 / (1 + 10 ** ((strengths[right] - strengths[left]) / 400))
        return "tie" if rng.random() < ties else "left" if rng.random() < p else "right"

    return sheet(key, choose, rater)


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_names_no_system(tmp_path):
    """Neither in words, nor by the order of its images, nor in the images' metadata."""
    info = PngInfo()
    info.add_text("system", NAMES[0])
    Image.new("RGB", (8, 8)).save(tmp_path / "named.png", pnginfo=info)
    with Image.open(tmp_path / "named.png") as image:
        image.load()
    text, key = make(tmp_path, systems=systems() | {NAMES[0]: [image] * len(PROMPTS)})
    assert NAMES[0] in json.dumps(key)
    assert not any(name in text for name in NAMES)
    assert set(payload(text)) == {"page", "question", "questions", "images", "pixelated"}
    text, key = make(tmp_path)
    places = {name: [] for name in NAMES}
    for shown in payload(text)["questions"]:
        for side in ("left", "right"):
            places[key["questions"][shown["id"]][side]].append(shown[side])
    assert all(max(p) - min(p) >= len(PROMPTS) for p in places.values())  # no system's images are contiguous


def test_the_key_identifies_the_images_of_the_page(tmp_path):
    text, key = make(tmp_path)
    data, images = payload(text), systems()
    assert data["page"] == key["page"] and [q["id"] for q in data["questions"]] == list(key["questions"])
    for shown in data["questions"]:
        question = key["questions"][shown["id"]]
        assert shown["prompt"] == PROMPTS[question["prompt"]]
        for side in ("left", "right"):
            content = base64.b64decode(data["images"][shown[side]].split(",")[1])
            with Image.open(io.BytesIO(content)) as image:
                assert image.getpixel((0, 0)) == images[question[side]][question["prompt"]].getpixel((0, 0))


@pytest.mark.parametrize("num", [1, 2, 7, 40])
def test_every_pair_meets_once_per_prompt_with_balanced_sides(tmp_path, num: int):
    _, key = make(tmp_path, systems=systems(num), prompts=[str(i) for i in range(num)])
    questions = key["questions"].values()
    met = Counter((a["prompt"], frozenset((a["left"], a["right"]))) for a in questions)
    assert len(met) == 3 * num and set(met.values()) == {1}
    sides = Counter((a["left"], a["right"]) for a in questions)
    assert all(abs(sides[a, b] - sides[b, a]) == num % 2 for a, b in combinations(NAMES, 2))


def test_the_page_depends_on_the_seed_only(tmp_path):
    first, again, other = (make(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert first == again
    assert first[1]["page"] != other[1]["page"]
    orders = [[payload(text)["questions"][i]["prompt"] for i in range(15)] for text, _ in (first, other)]
    assert orders[0] != orders[1]


def test_one_system_or_missing_images_raise(tmp_path):
    with pytest.raises(ValueError, match="2 systems"):
        make(tmp_path, systems=systems(names=NAMES[:1]))
    with pytest.raises(ValueError, match="give one for each"):
        make(tmp_path, prompts=PROMPTS[1:])
    assert list(tmp_path.iterdir()) == []


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def test_a_rater_chooses_by_keyboard_undoes_and_resumes(browser, tmp_path):
    text, key = make(tmp_path, systems=systems(2, NAMES[:2]), prompts=PROMPTS[:2])
    kept = f"JSON.parse(localStorage.getItem('t2i-human-{key['page']}'))"
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth > 0) && document.images.length"
    browser.open(tmp_path / "human.html")
    assert browser.run("document.querySelector('h1').textContent") == payload(text)["questions"][0]["prompt"]
    assert browser.run(loaded) == 2
    browser.press("ArrowLeft", "ArrowDown", "Backspace", "Backspace", "ArrowRight")
    assert [a["choice"] for a in browser.run(kept)["answers"]] == ["right"]
    browser.screenshot(tmp_path / "phone.png", 390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.open(tmp_path / "human.html")  # as on the next day
    assert browser.run("document.querySelector('.count').textContent") == "1 of 2 answered"
    browser.press(" ", "ArrowLeft")  # the second key is pressed after the last question
    files = """(() => { const make = URL.createObjectURL, blobs = [];
        URL.createObjectURL = (b) => { blobs.push(b); return make(b); };
        HTMLAnchorElement.prototype.click = function () { window.saved = this.download; };
        document.querySelector('.main').click(); return blobs[0].text(); })()"""
    answers = json.loads(browser.run(files))
    assert browser.run("window.saved") == f"answers-{answers['rater']}.json"
    assert [a["choice"] for a in answers["answers"]] == ["right", "tie"]
    result = tally([answers], key)
    assert (result["answered"], result["skipped"], result["pairs"][0]["ties"]) == (2, 0, 1)
    assert browser.errors == []


def test_a_rater_chooses_by_mouse(browser, tmp_path):
    _, key = make(tmp_path, systems=systems(3, NAMES[:2]), prompts=PROMPTS[:3], seed=5)
    browser.open(tmp_path / "human.html")
    browser.click("[data-choice=right]")
    browser.press(" ")  # after a click, space means a tie and does not repeat the choice
    kept = browser.run(f"JSON.parse(localStorage.getItem('t2i-human-{key['page']}'))")
    assert [a["choice"] for a in kept["answers"]] == ["right", "tie"]
    assert browser.run("document.scripts.length") == 2 and browser.errors == []


# --- the tally ------------------------------------------------------------------------------------------------------


def test_a_system_that_always_wins_has_an_interval_above_one_half():
    key = key_for(NAMES[:2], 10)
    result = tally([sheet(key, lambda _, left, right: "left" if left == NAMES[0] else "right")], key)
    [pair] = result["pairs"]
    assert (pair["a"], pair["wins"], pair["losses"], pair["ties"]) == (NAMES[0], 10, 0, 0)
    expected = proportion(10, 10)
    assert (
        pair["rate"] == {"value": 1, "low": expected.low, "high": expected.high, "n": 10} and pair["rate"]["low"] > 0.5
    )
    first, second = result["elo"]
    assert first["system"] == NAMES[0] and first["elo"] > second["elo"]
    assert first["low"] is first["high"] is None  # no finite interval: it has never lost
    assert "–" in table(result)


def test_ties_are_half_a_win_and_side_bias_is_reported():
    key = key_for(NAMES[:2], 8)
    result = tally([sheet(key, lambda i, *_: "tie" if i < 4 else "left")], key)
    assert result["pairs"][0]["rate"]["value"] == 0.75 and result["left"]["value"] == 0.75
    result = tally([sheet(key, lambda *_: "tie")], key)
    assert [row["elo"] for row in result["elo"]] == [1000.0, 1000.0]


def test_renaming_systems_changes_only_the_names():
    """Also if the new names sort differently, and if sides are swapped throughout."""
    key = key_for(NAMES, 30)
    raters = [noisy(key, dict(zip(NAMES, (1200, 1000, 900), strict=True)), seed, str(seed), 0.2) for seed in range(3)]
    result = tally(raters, key)
    new = dict(zip(NAMES, ("z", "m", "a"), strict=True))
    text = json.dumps(key)
    for name, other in new.items():
        text = text.replace(f'"{name}"', f'"{other}"')
    renamed = tally(raters, json.loads(text))
    assert [row | {"system": new[row["system"]]} for row in result["elo"]] == renamed["elo"]
    assert [p | {"a": new[p["a"]], "b": new[p["b"]]} for p in result["pairs"]] == renamed["pairs"]

    flipped = json.loads(json.dumps(key))
    for question in flipped["questions"].values():
        question["left"], question["right"] = question["right"], question["left"]
    other = {"left": "right", "right": "left", "tie": "tie"}
    turned = [r | {"answers": [a | {"choice": other[a["choice"]]} for a in r["answers"]]} for r in raters]
    mirrored = tally(turned, flipped)
    assert (mirrored["elo"], mirrored["pairs"]) == (result["elo"], result["pairs"])

    key["systems"] = key["systems"][::-1]
    for before, after in zip(result["elo"], tally(raters, key)["elo"], strict=True):
        assert before["system"] == after["system"]
        assert [after[k] for k in ("elo", "low", "high")] == pytest.approx([before[k] for k in ("elo", "low", "high")])


def test_elo_recovers_known_strengths():
    known = dict(zip(NAMES, (1150.0, 1010.0, 840.0), strict=True))
    key = key_for(NAMES, 3000)
    found = tally([noisy(key, known, 1)], key, resamples=200)["elo"]
    assert [row["system"] for row in found] == list(NAMES)
    for row in found:
        assert abs(row["elo"] - known[row["system"]]) < 15
        assert row["low"] <= row["elo"] <= row["high"] and row["high"] - row["low"] < 40
    assert np.mean([row["elo"] for row in found]) == pytest.approx(1000)


def test_elo_intervals_cover_the_truth_in_95_percent_of_cases():
    known = dict(zip(NAMES, (1100.0, 1000.0, 900.0), strict=True))
    key = key_for(NAMES, 60)
    inside = [
        row["low"] <= known[row["system"]] <= row["high"]
        for seed in range(60)
        for row in tally([noisy(key, known, seed)], key, resamples=200)["elo"]
    ]
    assert 0.88 < np.mean(inside) <= 1.0


def test_strengths_maximise_the_likelihood():
    points = np.array([[0, 7.5, 3], [2.5, 0, 6], [5, 4, 0]])
    [theta] = bradley_terry(points[None])

    def likelihood(t: np.ndarray) -> float:
        return ((points + 0.5 * (1 - np.eye(3))) * -np.logaddexp(0, t[None, :] - t[:, None])).sum()

    best = likelihood(theta)
    for step in np.concatenate([np.eye(3), -np.eye(3)]) * 1e-3:
        assert likelihood(theta + step) < best
    won = np.array([[0, 30.0], [10, 0]])  # two systems: the closed form, with half a win for each
    assert np.ptp(bradley_terry(won[None])[0]) == pytest.approx(np.log(30.5 / 10.5))
    huge = bradley_terry(np.array([[[0, 1e6, 1e6], [0, 0, 1e6], [0, 0, 0]]]))  # far apart, but finite
    assert np.isfinite(huge).all() and (np.diff(huge[0]) < -10).all()


def test_unanswered_questions_are_counted_and_pairs_without_answers_have_no_rate():
    key = key_for(NAMES, 4)

    def partly(i: int, left: str, right: str) -> str | None:
        return None if NAMES[2] in (left, right) or i == 0 else ("left" if i == 1 else "right")

    result = tally([sheet(key, partly, "a"), sheet(key, lambda *_: None, "b")], key)
    assert (result["raters"], result["answered"], result["skipped"]) == (2, 3, 21)
    assert [pair["rate"] is None for pair in result["pairs"]] == [False, True, True]
    assert {row["n"] for row in result["elo"]} == {3, 0} and {row["low"] for row in result["elo"]} == {None}
    assert "no answers" in table(result)
    over, *ratings = scores(result)
    assert over.name == f"{NAMES[0]} over {NAMES[1]}" and len(ratings) == 3


def test_invalid_answers_raise():
    key = key_for(NAMES[:2], 3)
    good = sheet(key, lambda *_: "left")
    twice = good | {"answers": [*good["answers"], good["answers"][0]]}
    foreign = good | {"answers": [{"question": "q99999", "choice": "left"}]}
    odd = good | {"answers": [{"question": "q00000", "choice": "both"}]}
    for answers, message in (
        ([good | {"page": "other"}], "answered page other"),
        ([good, good], "given twice"),
        ([twice], "answered question q00000 twice"),
        ([foreign], "does not offer"),
        ([odd], "does not offer"),
        ([{"page": "p"}], "not the answers of a rater"),
        ([good | {"answers": []}], "no answers to count"),
        ([], "no answers to count"),
    ):
        with pytest.raises(ValueError, match=message):
            tally(answers, key)
    assert tally([good, good | {"rater": "s"}], key)["answered"] == 6
