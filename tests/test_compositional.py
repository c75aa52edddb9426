"""Compositional accuracy: what counts as right, and the report. The embedded classifier judges real renders."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from t2i.data.toybox_v1 import ATTRIBUTES, HELD_OUT, KINDS, Scene, Thing
from t2i.data.toybox_v1.classifier import Prediction, ToyboxClassifier, load_classifier, predict
from t2i.eval.evaluators import compositional
from t2i.eval.evaluators.compositional import Answer, category_scores, check_scenes
from t2i.eval.generation.images import Item, generate_batches
from t2i.eval.generation.prompt import Prompt
from t2i.eval.generation.prompts import BASIC, CATEGORIES, WORDINGS, open_prompts

NUM = 6
CAT, CAR, BLUE_CAT, RED_CAR = ("cat", "red"), ("car", "blue"), ("cat", "blue"), ("car", "red")
ONE, TWO = Scene((Thing("cat", "red"),)), Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of")
THREE = Scene((Thing("cat", "red", 3),))


class Renders:
    """A foreign pipeline that renders the scene of its prompt, or what `change` makes of that scene."""

    def __init__(self, prompts: list[Prompt], change=lambda scene: scene, size: int = 64):
        self.scenes, self.change, self.size, self.seeds = {p.text: p.scene for p in prompts}, change, size, []

    def __call__(self, prompt, generator=None, output_type="pil", guidance_scale=1.0):
        self.seeds += [g.initial_seed() for g in generator]
        return SimpleNamespace(images=[self.change(self.scenes[text]).render(self.size) for text in prompt])


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return open_prompts("toybox-v1", NUM, seed=0)


@pytest.fixture(scope="module")
def classifier() -> ToyboxClassifier:
    return load_classifier()


def generated(pipeline, classifier: ToyboxClassifier, prompts: list[Prompt], batch_size: int = 32) -> list[Answer]:
    items = [Item(i, prompt, seed=0) for i, prompt in enumerate(prompts)]
    images = [image for _, batch in generate_batches(pipeline, items, batch_size) for image in batch]
    predictions = predict(classifier, images, batch_size)
    return [Answer(prompt, found) for prompt, found in zip(prompts, predictions, strict=True)]


def shares(answers: list[Answer]) -> dict[str, float]:
    return {name: float(np.mean(right)) for name, right in compositional.outcomes(answers).items()}


@pytest.fixture(scope="module")
def perfect(prompts, classifier):
    return generated(Renders(prompts), classifier, prompts, batch_size=7)


def answer(category: str, scene: Scene, layout: str, first: tuple, second: tuple | None = None, key: str = "k/0"):
    return Answer(Prompt(scene.caption(), category, scene, key), Prediction(layout, (first, second or first)))


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
        ("seen", ONE, [("one", CAT), ("two", CAT)], [("one", BLUE_CAT), ("one", RED_CAR)]),
        ("zero_shot", ONE, [("one", CAT, CAR)], [("one", BLUE_CAT, CAT)]),
        ("count", THREE, [("three", CAT)], [("two", CAT), ("three", BLUE_CAT)]),
    ],
)
def test_each_category_requires_what_its_name_says(category, scene, right, wrong):
    assert all(answer(category, scene, *prediction).right for prediction in right)
    assert not any(answer(category, scene, *prediction).right for prediction in wrong)


def test_every_category_of_prompts_has_a_rule():
    assert {*CATEGORIES, *BASIC} <= set(compositional.RULES)
    assert {p.category for p in open_prompts("lecture-v1") if p.scene} <= set(compositional.RULES)


def test_a_paraphrased_scene_is_right_only_in_all_wordings():
    answers = [answer("paraphrase", ONE, "one", CAT, key=f"paraphrase/0000/{k}") for k in range(3)]
    answers += [answer("paraphrase", ONE, "one", CAT if k else CAR, key=f"paraphrase/0001/{k}") for k in range(3)]
    answers += [answer("paraphrase", ONE, "one", CAR, key=f"paraphrase/0002/{k}") for k in range(3)]
    table = next(table for table in compositional.tables(answers) if table.title == "Paraphrases")
    assert [(row[1], row[4]) for row in table.rows] == [("33.3%", 3), ("55.6%", 9), ("66.7%", 3)]
    assert compositional.outcomes(answers)["paraphrase"] == [True, False, False]


def test_errors_count_wrong_facts():
    assert answer("position", TWO, "stacked", CAT, CAR).errors == 0
    assert answer("position", TWO, "stacked", CAT, CAT).errors == 2
    assert answer("position", TWO, "one", RED_CAR, BLUE_CAT).errors == 3
    assert answer("colour", ONE, "one", CAT, CAR).errors == 0, "the second slot of one thing does not count"


def test_the_confusion_matrix_counts_predictions_per_prompted_name():
    answers = [answer("colour", ONE, "one", guess) for guess in (CAT, CAT, CAR)]
    answers.append(answer("position", TWO, "stacked", CAR, CAT))  # two things: a wrong place is not a wrong kind
    tables = compositional.confusion(answers)
    kinds = tables["kinds"]
    cat, car = list(KINDS).index("cat"), list(KINDS).index("car")
    assert kinds.sum() == 3 and (kinds[cat, cat], kinds[cat, car]) == (2, 1)
    attributes, red, blue = tables["attributes"], ATTRIBUTES.index("red"), ATTRIBUTES.index("blue")
    assert attributes[red].sum() == 3 and attributes[red, blue] == 1


def test_tables_list_the_worst_names_first():
    red_car, car = Scene((Thing("car", "red"),)), ("car", "red")
    answers = [answer("seen", ONE, "one", guess) for guess in (CAT, car)] + [answer("seen", red_car, "one", car, CAT)]
    facts, kinds, attributes = compositional.tables(answers)
    assert facts.rows == [["seen", "66.7%", "100.0%", "100.0%", 3]]
    assert kinds.rows == [["cat", 2, 1, "car 1"], ["car", 1, 0, ""]]
    assert attributes.rows == [["red", 3, 0, ""]]


# --- the evaluation -------------------------------------------------------------------------------------------------


def test_a_perfect_pipeline_reaches_the_ceiling(prompts, perfect, classifier):
    real = [
        Answer(p, found)
        for p, found in zip(prompts, predict(classifier, [p.scene.render(64) for p in prompts]), strict=True)
    ]
    scores = {score.name: score for score in category_scores(perfect, real, Counter(), {})}
    assert set(scores) == set(CATEGORIES)
    assert all(score.value == score.ceiling >= 0.8 for score in scores.values())
    assert scores["paraphrase"].n == NUM // WORDINGS and scores["colour"].n == NUM
    predicted, best = compositional.confusion(perfect), compositional.confusion(real)
    assert all(np.array_equal(predicted[what], best[what]) for what in ("kinds", "attributes"))


def test_swapped_places_lower_only_position(prompts, classifier, perfect):
    def swapped(scene: Scene) -> Scene:
        return replace(scene, things=scene.things[::-1])

    found = shares(generated(Renders(prompts, swapped), classifier, prompts))
    assert found["position"] == 0
    for category in ("two objects", "attribute binding", "held-out combination of two"):
        assert found[category] >= 0.8
    assert found["colour"] == shares(perfect)["colour"]


def test_swapped_attributes_lower_only_attribute_binding(prompts, classifier):
    def swapped(scene: Scene) -> Scene:
        if scene.relation is None:
            return scene
        a, b = scene.things
        if a.attribute == b.kind or b.attribute == a.kind:  # nothing is made of itself
            return scene
        return replace(scene, things=(Thing(a.kind, b.attribute), Thing(b.kind, a.attribute)))

    found = shares(generated(Renders(prompts, swapped), classifier, prompts))
    assert found["attribute binding"] <= 0.35
    assert found["two objects"] >= 0.8 and found["position"] >= 0.8


def test_predictions_and_noise_do_not_depend_on_the_batch(prompts, classifier, perfect):
    one = Renders(prompts)
    assert generated(one, classifier, prompts, batch_size=1) == perfect
    assert len(set(one.seeds)) == len(prompts)


@pytest.mark.parametrize("size", [64, 128])
def test_the_basic_suite_of_a_perfect_pipeline_is_right_at_any_size(classifier, size):
    prompts = open_prompts("basic", 4, seed=0)
    found = shares(generated(Renders(prompts, size=size), classifier, prompts, batch_size=3))
    assert set(found) == set(BASIC) and np.mean(list(found.values())) > 0.9


def test_a_swapped_relation_is_wrong_although_both_things_are_present(classifier):
    prompts = open_prompts("basic", 4, seed=0)
    swapped = Renders(prompts, lambda s: s if s.relation is None else replace(s, things=s.things[::-1]))
    found, right = (shares(generated(p, classifier, prompts)) for p in (swapped, Renders(prompts)))
    assert found["relation"] == 0 and right["relation"] >= 0.75
    assert found["seen"] == right["seen"]


def test_the_same_image_for_every_prompt_scores_near_chance(classifier):
    def same(prompt, generator=None, output_type="pil"):
        return SimpleNamespace(images=[Image.new("RGB", (64, 64), (90, 140, 60))] * len(prompt))

    found = shares(generated(same, classifier, open_prompts("basic", 28, seed=0)))
    assert all(value <= 2 / 28 for value in found.values())


def test_the_confusion_matrices_are_plotted_as_one_image(perfect):
    assert compositional.confusion_image(perfect, perfect).width > 600


def test_prompts_without_scenes_raise(tmp_path):
    (tmp_path / "mine.txt").write_text("a cat")
    with pytest.raises(ValueError, match="--prompts toybox-v1"):
        check_scenes(open_prompts(str(tmp_path / "mine.txt")))
    assert check_scenes(open_prompts("lecture-v1"))


# --- the basic suite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(len(BASIC)))
def test_scenes_and_noise_depend_on_the_seed_only(place):
    def of(num: int, seed: int) -> list[Prompt]:
        return open_prompts("basic", num, seed)[place * num : (place + 1) * num]

    many = of(40, seed=1)
    assert many[:10] == of(10, seed=1)
    assert [p.scene for p in many] != [p.scene for p in of(40, seed=2)]
    seeds = [Item(0, prompt, seed).generator().initial_seed() for seed in (0, 1) for prompt in many]
    assert len(set(seeds)) == 80


def test_each_basic_category_has_scenes_of_its_split_and_family():
    prompts = open_prompts("basic", 56, seed=3)
    for category, (split, family) in BASIC.items():
        scenes = [p.scene for p in prompts if p.category == category]
        assert {scene.family for scene in scenes} == {family}
        assert {thing.held_out for scene in scenes for thing in scene.things} == {split == "zero_shot"}
    pairs = Counter((t.attribute, t.kind) for p in prompts if p.category == "zero_shot" for t in p.scene.things)
    assert set(pairs) == HELD_OUT and set(pairs.values()) == {2}


def test_the_noise_of_the_basic_suite_is_fixed():
    assert Item(0, open_prompts("basic", 1, 0)[0], 0).generator().initial_seed() == 7076205008002241668
