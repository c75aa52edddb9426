"""The toybox world: determinism, the split, captions, placements."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from t2i.contact_sheet import contact_sheet
from t2i.data.toybox.backgrounds import background
from t2i.data.toybox_v1 import (
    ATTRIBUTES,
    BACKGROUNDS,
    FAMILIES,
    HELD_OUT,
    KINDS,
    RELATIONS,
    Scene,
    Thing,
    Toybox,
    export,
    vocabulary,
)
from t2i.data.toybox_v1.captions import RELATION_PHRASES, SIDE_BY_SIDE
from t2i.data.toybox_v1.composite import sprite
from t2i.data.toybox_v1.layout import Jitter, layout

PAIRS = [(attribute, kind) for kind in KINDS for attribute in ATTRIBUTES if attribute != kind]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def training_scenes() -> list[Scene]:
    generator = rng(7)
    return [Scene.sample(generator, "train") for _ in range(20_000)]


# --- determinism ----------------------------------------------------------------------------------------------------

DIGEST = """
import hashlib
from t2i.data.toybox_v1 import Toybox
data, digest = Toybox("all", size=64, seed=3, num=40), hashlib.sha256()
for i in {order}:
    item = data[i]
    print(i, hashlib.sha256(item["image"].tobytes()).hexdigest(), item["text"], item["scene"])
"""


def test_same_seed_same_bytes_in_another_process_and_another_order():
    here = []
    data = Toybox("all", size=64, seed=3, num=40)
    for i in range(40):
        item = data[i]
        here.append(f"{i} {hashlib.sha256(item['image'].tobytes()).hexdigest()} {item['text']} {item['scene']}")
    script = DIGEST.format(order="reversed(range(40))")
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert sorted(here) == sorted(there.splitlines())


@pytest.mark.parametrize("layout_name", ["folder", "array"])
def test_export_is_the_same_for_one_and_two_workers(tmp_path, layout_name):
    one, two = (
        export(tmp_path / f"w{workers}", 300, seed=5, size=32, workers=workers, layout=layout_name)
        for workers in (1, 2)
    )
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w1", "w2"]  # no temporary folder is left

    records = [json.loads(line) for line in (one / "metadata.jsonl").read_text().splitlines()]
    data = Toybox(seed=5, size=32, num=300)
    assert len(records) == 300
    for i in (0, 255, 256, 299):
        assert records[i]["text"] == data[i]["text"]
        assert Scene.from_dict(records[i]["scene"]) == data[i]["scene"]
    if layout_name == "array":
        np.testing.assert_array_equal(np.load(one / "images.npy", mmap_mode="r")[299], data[299]["image"])


def test_export_refuses_a_full_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_items_depend_on_seed_split_and_index_alone():
    assert Toybox(num=10)[4]["scene"] == Toybox(num=10_000)[4]["scene"]
    assert Toybox(seed=1, num=10)[4]["scene"] != Toybox(seed=2, num=10)[4]["scene"]
    data = Toybox(num=3)
    assert data[-1]["scene"] == data[2]["scene"]
    assert len(list(data)) == 3  # iteration ends by IndexError
    with pytest.raises(IndexError):
        data[3]


def test_importing_toybox_does_not_import_torch():
    script = "import sys, t2i.data.toybox_v1; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# --- the split ------------------------------------------------------------------------------------------------------


def test_held_out_list_is_balanced():
    attributes, kinds = zip(*HELD_OUT, strict=True)
    assert len(HELD_OUT) == 28 and ("avocado", "armchair") in HELD_OUT
    assert set(kinds) == set(KINDS) and set(attributes) <= set(ATTRIBUTES)
    assert max(map(kinds.count, kinds)) <= 2 and max(map(attributes.count, attributes)) <= 3


def test_training_never_shows_a_held_out_pair_but_both_of_its_halves(training_scenes):
    seen = {(thing.attribute, thing.kind) for scene in training_scenes for thing in scene.things}
    assert seen == set(PAIRS) - HELD_OUT  # every other pair does occur
    for attribute, kind in HELD_OUT:
        assert sum(a == attribute for a, _ in seen) > 15
        assert sum(k == kind for _, k in seen) > 15


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_shot_scenes_are_held_out_in_every_thing(family):
    scenes = [Scene.sample(rng(i), "zero_shot", family) for i in range(300)]
    assert all(thing.held_out for scene in scenes for thing in scene.things)
    assert all(scene.family == family for scene in scenes)


def test_families_are_sampled_as_often_as_they_say(training_scenes):
    families = [scene.family for scene in training_scenes]
    for family, p in FAMILIES.items():
        assert families.count(family) / len(families) == pytest.approx(p, abs=0.02)


# --- images -------------------------------------------------------------------------------------------------------


def test_every_pair_renders_inside_the_frame():
    for i, (attribute, kind) in enumerate(PAIRS):
        scene = Scene((Thing(kind, attribute),), background=BACKGROUNDS[i % len(BACKGROUNDS)], jitter_seed=i)
        pixels = np.asarray(scene.render(64)).astype(int)
        grounds = [np.asarray(background(scene.background, 64, v)).astype(int) for v in range(3)]
        ground = min(grounds, key=lambda g: np.abs(pixels - g)[:, 0].sum())
        changed = (pixels != ground).any(-1)
        assert changed.mean() > 0.1, (attribute, kind)
        for edge in (changed[0], changed[-1], changed[:, 0], changed[:, -1]):
            assert not edge.any(), (attribute, kind)


def test_borders_stay_clear_and_boxes_apart_in_every_layout(training_scenes):
    for scene in training_scenes[:2000]:
        boxes = [(p.x, p.y, p.x + p.size, p.y + p.size) for p in layout(scene, Jitter(scene.jitter_seed))]
        assert len(boxes) == sum(thing.count for thing in scene.things)
        assert all(min(box) >= 1 and max(box) <= 63 for box in boxes), scene
        if scene.relation not in ("on top of", "below"):  # those touch
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], scene


@pytest.mark.parametrize("size", [16, 50, 64, 100])
def test_any_size_keeps_the_border_clear(size):
    for scene in (Scene.sample(rng(i)) for i in range(60)):
        pixels = np.asarray(scene.render(size))
        assert pixels.shape == (size, size, 3)
        assert (pixels[0] == pixels[0, 0]).all() and (pixels[-1] == pixels[-1, 0]).all()


def test_pairs_of_attributes_look_different():
    """For every kind, at the size used in pairs, the mean pixel distance between any two attributes is large."""
    for kind in KINDS:
        looks = [np.asarray(sprite(kind, a, 28)).astype(float)[..., :3] for a in ATTRIBUTES if a != kind]
        for i, a in enumerate(looks):
            assert all(np.abs(a - b).mean() > 4 for b in looks[:i]), kind


@pytest.mark.parametrize("relation", RELATIONS)
def test_things_are_where_the_relation_says(relation):
    for seed in range(150):
        first, second = rng(seed).choice(list(KINDS), 2, replace=False).tolist()
        scene = Scene((Thing(first, "red"), Thing(second, "blue")), relation, "white", seed)
        pixels = np.asarray(scene.render(64)).astype(int)
        excess = pixels[..., 0] - pixels[..., 2]
        red, blue = (np.argwhere(where).mean(0) for where in (excess > 60, excess < -60))
        down, right = red - blue  # from the second thing to the first
        apart = {"on top of": -down, "below": down, "left of": -right, "right of": right}[relation]
        assert apart > 12, (scene, apart)


# --- captions -------------------------------------------------------------------------------------------------------


def test_captions_are_well_formed(training_scenes):
    words, generator = vocabulary(), rng(1)
    for scene in training_scenes:
        text = scene.caption(generator)
        assert text == text.lower() and "  " not in text and "{" not in text
        assert set(text.split()) <= words, text
        for article, following in re.findall(r"\b(an?) (\w)", text):
            assert (article == "an") == (following in "aeiou"), text


def test_relation_phrases_decode(training_scenes):
    meaning = {phrase: relation for relation, phrases in RELATION_PHRASES.items() for phrase in phrases}
    assert set(meaning.values()) == set(RELATIONS)
    assert len(meaning) == sum(map(len, RELATION_PHRASES.values()))  # no phrase means two relations
    longest_first = sorted(meaning, key=len, reverse=True)
    generator = rng(2)
    for scene in training_scenes[:5000]:
        text = scene.caption(generator)
        found = next((meaning[phrase] for phrase in longest_first if f" {phrase} " in text), None)
        assert found == scene.relation or (" and " in text and scene.relation in SIDE_BY_SIDE), text


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene((Thing("armchair", "avocado"),)), "an avocado armchair"),
        (Scene((Thing("mouse", "wood", 3),)), "three wooden mice"),
        (Scene((Thing("octopus", "orange", 2),)), "two orange octopuses"),
        (Scene((Thing("cactus", "zebra", 4),)), "four zebra cacti"),
        (Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of"), "a red cat on top of a blue car"),
    ],
)
def test_canonical_captions(scene, text):
    assert scene.caption() == text


def test_an_avocado_armchair_has_several_names():
    scene, generator = Scene((Thing("armchair", "avocado"),)), rng(0)
    said = {scene.caption(generator) for _ in range(400)}
    assert {"an armchair in the shape of an avocado", "an armchair that looks like an avocado", "an armchair"} <= said


# --- scenes as data -------------------------------------------------------------------------------------------------


def test_json_round_trip(training_scenes):
    for scene in training_scenes[:500]:
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


@pytest.mark.parametrize(
    ("make", "nearest"),
    [
        (lambda: Thing("armchiar", "red"), "armchair"),
        (lambda: Thing("cat", "leopart"), "leopard"),
        (lambda: Scene((Thing("cat", "red"),), background="meadows"), "meadow"),
        (lambda: Scene((Thing("cat", "red"), Thing("car", "red")), "left off"), "left of"),
        (lambda: Scene.sample(rng(), split="trian"), "train"),
        (lambda: Scene.sample(rng(), family="singel"), "single"),
        (lambda: Toybox("zeroshot"), "zero_shot"),
        (lambda: export("never", 1, layout="aray"), "array"),
    ],
)
def test_bad_names_raise_and_name_the_nearest(make, nearest):
    with pytest.raises(ValueError, match=f"did you mean {nearest}"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Thing("avocado", "avocado"),
        lambda: Thing("cat", "red", 5),
        lambda: Scene(()),
        lambda: Scene((Thing("cat", "red"),), relation="below"),
        lambda: Scene((Thing("cat", "red"), Thing("car", "red"))),
        lambda: Scene((Thing("cat", "red"), Thing("cat", "blue")), "below"),
        lambda: Scene((Thing("cat", "red", 2), Thing("car", "blue")), "below"),
        lambda: Scene((Thing("cat", "red"),), jitter_seed=-1),
    ],
)
def test_impossible_scenes_raise(make):
    with pytest.raises(ValueError):
        make()


def test_contact_sheet_has_a_cell_for_each_picture():
    images = [Toybox(num=5)[i]["image"] for i in range(5)]
    sheet = contact_sheet([Image.fromarray(image) for image in images], ["a very long label " * 5] * 5, columns=3)
    assert sheet.width > 3 * 128 and sheet.height > 2 * 128
    with pytest.raises(ValueError):
        contact_sheet([], [], columns=3)
