"""Compositional accuracy: what counts as right, and laws of the report. The embedded reader judges real renders."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from t2i.data.toybox import KINDS, Scene, Thing
from t2i.data.toybox.reader import Reader, Reading, load_reader
from t2i.eval import binding, composition
from t2i.eval.composition import Answer, Composition, judge
from t2i.eval.generation import Item, draw
from t2i.eval.prompts import CATEGORIES, WORDINGS, Prompt, open_prompts

NUM = 6
CAT, CAR, BLUE_CAT, RED_CAR = ("cat", "red"), ("car", "blue"), ("cat", "blue"), ("car", "red")
ONE, TWO = Scene((Thing("cat", "red"),)), Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of")
THREE = Scene((Thing("cat", "red", 3),))


class Renders:
    """A foreign pipeline that draws the scene whose caption it is given, or what `change` makes of that scene."""

    def __init__(self, prompts: list[Prompt], change=lambda scene: scene):
        self.scenes, self.change, self.seeds = {p.text: p.scene for p in prompts}, change, []

    def __call__(self, prompt, generator=None, output_type="pil", guidance_scale=1.0):
        self.seeds += [g.initial_seed() for g in generator]
        return SimpleNamespace(images=[self.change(self.scenes[text]).render(64) for text in prompt])


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return open_prompts("toybox", NUM, seed=0)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


def drawn_and_judged(pipeline, reader: Reader, prompts: list[Prompt], batch_size: int = 32) -> Composition:
    items = [Item(i, prompt, seed=0) for i, prompt in enumerate(prompts)]
    images = [image for _, batch in draw(pipeline, items, batch_size) for image in batch]
    return judge(reader, prompts, images, batch_size, {"suite": "toybox"})


@pytest.fixture(scope="module")
def perfect(prompts, reader):
    return drawn_and_judged(Renders(prompts), reader, prompts, batch_size=7)


def answer(category: str, scene: Scene, layout: str, first: tuple, second: tuple | None = None, key: str = "k/0"):
    return Answer(Prompt(scene.caption(), category, scene, key), Reading(layout, (first, second or first)))


# --- what counts as right -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "scene", "right", "wrong"),
    [
        ("colour", ONE, [("one", CAT), ("two", CAT)], [("one", BLUE_CAT), ("one", RED_CAR)]),
        ("counting", THREE, [("three", CAT), ("three", BLUE_CAT)], [("two", CAT), ("three", RED_CAR)]),
        (
            "position",
            TWO,
            [("stacked", CAT, CAR), ("stacked", BLUE_CAT, RED_CAR)],
            [("stacked", CAR, CAT), ("side by side", CAT, CAR), ("one", CAT, CAT)],
        ),
        (
            "two objects",
            TWO,
            [("stacked", CAR, CAT), ("side by side", RED_CAR, BLUE_CAT)],
            [("stacked", CAT, CAT), ("one", CAT, CAR)],
        ),
        (
            "attribute binding",
            TWO,
            [("stacked", CAT, CAR), ("side by side", CAR, CAT)],
            [("stacked", BLUE_CAT, RED_CAR), ("two", CAT, CAR)],
        ),
        ("relation", TWO, [("stacked", CAT, CAR)], [("stacked", CAR, CAT), ("stacked", BLUE_CAT, RED_CAR)]),
    ],
)
def test_each_category_asks_about_what_it_is_named_after(category, scene, right, wrong):
    assert all(answer(category, scene, *reading).right for reading in right)
    assert not any(answer(category, scene, *reading).right for reading in wrong)


def test_every_category_of_prompts_is_judged():
    assert set(CATEGORIES) <= set(composition.RULES)
    assert {p.category for p in open_prompts("lecture") if p.scene} <= set(composition.RULES)


def test_a_paraphrased_scene_is_right_only_in_all_wordings():
    answers = [answer("paraphrase", ONE, "one", CAT, key=f"paraphrase/0000/{k}") for k in range(3)]
    answers += [answer("paraphrase", ONE, "one", CAT if k else CAR, key=f"paraphrase/0001/{k}") for k in range(3)]
    answers += [answer("paraphrase", ONE, "one", CAR, key=f"paraphrase/0002/{k}") for k in range(3)]
    found = composition.paraphrase(answers)
    assert {what: (s["value"], s["n"]) for what, s in found.items()} == {
        "all": (pytest.approx(1 / 3), 3),
        "each": (pytest.approx(5 / 9), 9),
        "agreement": (pytest.approx(2 / 3), 3),
    }
    assert composition.scores(answers)["paraphrase"] == found["all"]


def test_errors_count_wrong_facts():
    assert answer("position", TWO, "stacked", CAT, CAR).errors == 0
    assert answer("position", TWO, "stacked", CAT, CAT).errors == 2
    assert answer("position", TWO, "one", RED_CAR, BLUE_CAT).errors == 3
    assert answer("colour", ONE, "one", CAT, CAR).errors == 0, "the second slot of one thing says nothing"


def test_confusion_counts_what_was_read_for_what_was_asked():
    answers = [answer("colour", ONE, "one", read) for read in (CAT, CAT, CAR)]
    answers.append(answer("position", TWO, "stacked", CAR, CAT))  # two things: a wrong place is no wrong kind
    tables = composition.confusion(answers)
    kinds = np.array(tables["kinds"]["counts"])
    cat, car = list(KINDS).index("cat"), list(KINDS).index("car")
    assert kinds.sum() == 3 and (kinds[cat, cat], kinds[cat, car]) == (2, 1)
    attributes = tables["attributes"]
    red, blue = attributes["names"].index("red"), attributes["names"].index("blue")
    assert np.array(attributes["counts"])[red].sum() == 3 and attributes["counts"][red][blue] == 1


# --- the evaluation -------------------------------------------------------------------------------------------------


def test_a_perfect_pipeline_reaches_the_ceiling(perfect):
    report = perfect.report
    assert report["scores"] == report["ceilings"] and set(report["scores"]) == set(CATEGORIES)
    assert report["confusion"] == report["confusion_of_reader"]
    assert all(s["value"] >= 0.8 for s in report["scores"].values())
    assert report["scores"]["paraphrase"]["n"] == NUM // WORDINGS and report["scores"]["colour"]["n"] == NUM


def test_swapped_places_cost_positions_alone(prompts, reader, perfect):
    def swapped(scene: Scene) -> Scene:
        return replace(scene, things=scene.things[::-1])

    scores = drawn_and_judged(Renders(prompts, swapped), reader, prompts).report["scores"]
    assert scores["position"]["value"] == 0
    for category in ("two objects", "attribute binding", "unseen combination of two"):
        assert scores[category]["value"] >= 0.8
    assert scores["colour"] == perfect.report["scores"]["colour"]


def test_swapped_attributes_cost_the_binding_alone(prompts, reader):
    def swapped(scene: Scene) -> Scene:
        if scene.relation is None:
            return scene
        a, b = scene.things
        if a.attribute == b.kind or b.attribute == a.kind:  # nothing is made of itself
            return scene
        return replace(scene, things=(Thing(a.kind, b.attribute), Thing(b.kind, a.attribute)))

    scores = drawn_and_judged(Renders(prompts, swapped), reader, prompts).report["scores"]
    assert scores["attribute binding"]["value"] <= 0.35
    assert scores["two objects"]["value"] >= 0.8 and scores["position"]["value"] >= 0.8


def test_report_and_noise_do_not_depend_on_the_batch(prompts, reader, perfect):
    one = Renders(prompts)
    assert drawn_and_judged(one, reader, prompts, batch_size=1).report == perfect.report
    assert len(set(one.seeds)) == len(prompts)


def test_prompts_without_a_scene_are_left_undecided(pipe, reader):
    lecture = open_prompts("lecture", seed=3)
    found = drawn_and_judged(pipe, reader, lecture)
    assert found.report["undecided"] == len(found.undecided) == sum(prompt.scene is None for prompt in lecture) > 0
    assert [prompt.key for _, prompt in found.undecided] == [prompt.key for prompt in lecture if prompt.scene is None]


def test_the_worst_failures_come_first(prompts, reader):
    def spoilt(scene: Scene) -> Scene:
        wrong = [t for t in (Thing("robot", "brick"), Thing("tree", "pink")) if t.kind != scene.things[0].kind]
        return replace(scene, things=wrong[:1], relation=None) if scene.jitter_seed % 2 else scene

    found = drawn_and_judged(Renders(prompts, spoilt), reader, prompts)
    assert json.loads(json.dumps(found.report)) == found.report
    assert composition.confusion_picture(found.report).width > 600
    assert any(found.failures.values())
    for category, pairs in found.failures.items():
        errors = [a.errors for _, a in pairs]
        assert errors == sorted(errors, reverse=True) and not any(a.right for _, a in pairs)
        assert [row["errors"] for row in found.report["worst"][category]] == errors
    assert found.report["settings"]["suite"] == "toybox" and len(found.report["settings"]["reader_sha256"]) == 64


def test_prompts_that_nothing_can_judge_are_refused(reader, tmp_path):
    (tmp_path / "mine.txt").write_text("a cat")
    prompts = open_prompts(str(tmp_path / "mine.txt"))
    with pytest.raises(ValueError, match="suite toybox"):
        judge(reader, prompts, [Image.new("RGB", (64, 64))])


# --- binding, which draws with the same functions -------------------------------------------------------------------


def test_bindings_noise_and_pictures_are_as_ever(pipe):
    assert binding.generator("seen", 0, 0).initial_seed() == 7076205008002241668
    asked = binding.scenes("relation", 3, 5)

    def generators() -> list:
        return [binding.generator("relation", i, 5) for i in range(3)]

    drawn = np.concatenate(list(binding.drawn(pipe, asked, generators(), 2)))
    pil = pipe([s.caption() for s in asked], generator=generators(), output_type="pil").images
    assert np.array_equal(drawn, binding.squares(pil))
