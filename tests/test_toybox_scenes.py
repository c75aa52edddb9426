"""Toybox scenes: rendering, what is held out of training, and what covers what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from itertools import islice
from math import inf

import numpy as np
import pytest
from PIL import Image, ImageChops

from t2i.checks import UsageError
from t2i.data.toybox import render as rendering
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox.description import ACTIONS, PLACES, Relation, Thing, can
from t2i.data.toybox.export import export
from t2i.data.toybox.facts import facts
from t2i.data.toybox.hybrid import extent, form
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.layout import MOST, Jitter, layout
from t2i.data.toybox.near_misses import near_misses, turned_round
from t2i.data.toybox.prediction import Prediction
from t2i.data.toybox.render import LABELS, inscription_scale
from t2i.data.toybox.scene import FAMILIES, Scene, families_of
from t2i.data.toybox.sketch import Raster
from t2i.data.toybox.split import SORTS, SPLITS, held_out, held_out_sorts
from t2i.data.toybox.styles import LETTER_SCALE, STYLES


def sampled(num: int, split: str = "all", family: str | None = None) -> list[Scene]:
    return [Scene.sample(np.random.default_rng((11, i)), split, family) for i in range(num)]


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_there_are_sixty_kinds():
    assert len(KINDS) >= 60
    assert all(name == kind.name for name, kind in KINDS.items())


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_drawn_inside_its_box_in_all_attributes(name):
    halved = Raster([shape.moved(0.5, 0.25, 0.25) for shape in KINDS[name].shapes], 200)  # so that nothing is cut off
    x0, y0, x1, y1 = ImageChops.lighter(halved.mask, halved.detail.getchannel("A")).getbbox()
    assert min(x0, y0) >= 50 and max(x1, y1) <= 150
    assert max(x1 - x0, y1 - y0) > 75, "as large as its box"
    images = {}
    for attribute in (None, *(a for a in ATTRIBUTES if a != name)):
        scene = Scene((Thing(name, attribute),), jitter_seed=3)
        image = np.asarray(scene.render(48)).astype(int)
        assert (np.concatenate([image[0], image[:-8, 0], image[:-8, -1]]) == 255).all(), "white, above the shadow"
        images[attribute] = image
        shown = (np.abs(image - 255).max(-1) > 24).mean()
        assert 0.03 < shown < 0.9
    different = [(a, b) for a in images for b in images if a != b and np.abs(images[a] - images[b]).mean() < 0.5]
    natural = {attribute for pair in different for attribute in pair}
    assert len(natural) <= 2 and (not natural or None in natural), "only its natural colour may be like another"


@pytest.mark.parametrize("style", STYLES)
def test_every_kind_is_visible_in_every_style(style, monkeypatch):
    scenes = [Scene((Thing(name),), style=style, background="white", jitter_seed=i) for i, name in enumerate(KINDS)]
    images = [np.asarray(scene.render(64)).astype(int) for scene in scenes]
    masks = [scene.layout(64) > 0 for scene in scenes]
    monkeypatch.setattr(rendering, "_visible", lambda alpha, *_: Image.new("L", alpha.size, 0))
    for scene, image, mask in zip(scenes, images, masks, strict=True):
        difference = np.abs(image - np.asarray(scene.render(64))).mean(-1)  # to the shadow alone
        assert difference[mask].mean() > 15, scene


# --- hybrids and relations --------------------------------------------------------------------------------------------


def test_a_hybrid_has_the_top_of_one_kind_and_the_base_of_the_other():
    mouse_octopus = form("octopus", "mouse")
    assert {shape.part for shape in mouse_octopus.shapes} == {"top", "base"}
    for part, of in (("top", "mouse"), ("base", "octopus")):
        mine = [(s.name, s.tone, s.ink) for s in mouse_octopus.shapes if s.part == part]
        assert mine == [(s.name, s.tone, s.ink) for s in KINDS[of].shapes if s.part == part]
    x0, y0, x1, y1 = extent(mouse_octopus.shapes)
    assert min(x0, y0) >= 0 and max(x1, y1) <= 1


def test_every_hybrid_fits_its_box():
    for i, name in enumerate(KINDS):
        for head in islice((h for h in KINDS if h != name), i % 7, None, 7):
            x0, y0, x1, y1 = extent(form(name, head).shapes)
            assert min(x0, y0) >= 0 and max(x1, y1) <= 1, (name, head)


def test_the_nearer_thing_covers_the_other():
    """A thing in front shows all of itself; the one behind does not."""
    for seed in range(8):
        things, front = (Thing("cat", "red"), Thing("house", "blue")), Relation(0, "in front of", 1)
        scene = Scene(things, (front,), jitter_seed=seed)
        covered = Scene(things, (Relation(0, "behind", 1),), jitter_seed=seed)
        for described, nearer in ((scene, "cat"), (covered, "house")):
            labels = described.layout(128)
            for i, thing in enumerate(things):
                seen = (labels == LABELS.index(thing.kind)).sum()
                placement = next(p for p in layout(described, Jitter(seed)) if p.thing == i)
                whole = _area(thing.kind, placement, 128)
                assert (seen >= 0.97 * whole) == (thing.kind == nearer), (seed, described, thing.kind)


def _area(kind: str, placement, size: int) -> int:
    from t2i.data.toybox.sprite import layers

    return (np.asarray(layers(kind, None, round(placement.side * size)).alpha) >= 128).sum()


@pytest.mark.parametrize("relation", [*PLACES, *ACTIONS])
def test_both_things_of_a_relation_are_visible_and_inside(relation):
    pairs = [(a, b) for a in KINDS for b in KINDS if a != b and can(Thing(a), relation, Thing(b))]
    assert len(pairs) > 10
    for i, (a, b) in enumerate(pairs[:: max(1, len(pairs) // 40)]):
        scene = Scene((Thing(a), Thing(b)), (Relation(0, relation, 1),), jitter_seed=i)
        labels = scene.layout(128)
        for kind in (a, b):
            assert (labels == LABELS.index(kind)).sum() > 60, (a, relation, b, kind)
        assert not labels[0].any() and not labels[:, 0].any() and not labels[:, -1].any()


@pytest.mark.parametrize(
    "relation, axis, sign", [("left of", 1, -1), ("right of", 1, 1), ("on top of", 0, -1), ("below", 0, 1)]
)
def test_places_are_where_they_say(relation, axis, sign):
    for seed in range(10):
        scene = Scene((Thing("cat"), Thing("house")), (Relation(0, relation, 1),), jitter_seed=seed)
        labels = scene.layout(96)
        a, b = (np.argwhere(labels == LABELS.index(kind))[:, axis].mean() for kind in ("cat", "house"))
        assert sign * (a - b) > 8


def test_counts_are_what_is_seen():
    from scipy.ndimage import label

    for count in (1, 2, 3, 4):
        for seed in range(6):
            labels = Scene((Thing("apple", count=count),), jitter_seed=seed).layout(128)
            assert label(labels > 0)[1] == count


# --- samples and splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_scenes_of_a_family_are_of_that_family(family):
    assert {scene.family for scene in sampled(60, family=family)} == {family}


@pytest.mark.parametrize("family", ["place", "action", "several"])
def test_all_things_of_a_scene_are_visible(family):
    for scene in sampled(400, family=family):
        labels = scene.layout(128)
        for thing in scene.things:
            assert (labels == LABELS.index(thing.kind)).sum() >= 30, scene


def test_things_beside_two_that_cover_each_other_hide_neither():
    """The one in front stands at the side where nothing else is."""
    things, relations = (Thing("tree"), Thing("cat"), Thing("house")), (Relation(0, "left of", 1),)
    for seed in range(20):
        scene = Scene(things, (*relations, Relation(1, "in front of", 2)), jitter_seed=seed)
        labels = scene.layout(128)
        house, cat = ((labels == LABELS.index(kind)).sum() for kind in ("house", "cat"))
        assert house > 0.4 * cat


@pytest.mark.parametrize("split", SPLITS)
def test_every_family_of_a_split_can_be_sampled_and_no_other(split):
    for family in FAMILIES:
        if family in families_of(split):
            scene = Scene.sample(np.random.default_rng(0), split, family)
            assert scene.family == family
        else:
            with pytest.raises(UsageError, match=f"no scenes of the family {family!r}"):
                Scene.sample(np.random.default_rng(0), split, family)
            with pytest.raises(UsageError, match=f"no scenes of the family {family!r}"):
                Toybox(split, family=family)


def test_a_mixture_has_its_families_in_its_proportions():
    data = Toybox("all", 32, 0, 600, {"count": 3, "hybrid": 1})
    families = [data.scene(i)[0].family for i in range(600)]
    assert set(families) == {"count", "hybrid"}
    assert 0.68 < families.count("count") / 600 < 0.82
    assert data.fingerprint() != Toybox("all", 32, 0, 600, {"count": 1, "hybrid": 1}).fingerprint()
    world = Toybox("all", 32, 0, 600)
    assert [world.scene(i) for i in range(5)] == [Toybox("all", 32, 0, 600, FAMILIES).scene(i) for i in range(5)]
    for wrong, error in (({"count": 0}, "above 0"), ({"count": -1}, "weight of count"), ({"counts": 1}, "'counts'")):
        with pytest.raises(ValueError, match=error):
            Toybox("all", 32, 0, 600, wrong)


def test_training_has_nothing_that_is_held_out():
    for scene in sampled(3000, "train"):
        assert not held_out_sorts(facts(scene)), scene
    assert held_out("pair", "avocado", "armchair") and held_out("action", "horse", "riding", "astronaut")


@pytest.mark.parametrize("sort", [sort for sort in SORTS if sort != "phrasing"])
def test_a_held_out_split_has_only_its_sort(sort):
    for scene in sampled(80, sort):
        assert held_out_sorts(facts(scene)) == {sort}


def test_about_a_sixteenth_of_pairs_is_held_out():
    share = np.mean([held_out("pair", a, k) for a in ATTRIBUTES for k in KINDS])
    assert 1 / 24 < share < 1 / 11
    for kind in KINDS:
        assert sum(not held_out("pair", a, kind) for a in ATTRIBUTES) >= 2


def test_the_head_of_a_hybrid_is_in_held_out_pairs():
    """A cat with the head of an armchair, made of avocado, shows an avocado armchair's head."""
    assert "pair" in held_out_sorts(facts(Scene((Thing("cat", "avocado", head="armchair"),))))


def test_a_scene_survives_json():
    for scene in sampled(200):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = "import hashlib; from t2i.data.toybox.dataset import Toybox; d = Toybox('all', 64, 5, 40)\n"
    code += "items = b''.join(d[i]['image'].tobytes() + d[i]['text'].encode() for i in (7, 3, 39))\n"
    code += "print(hashlib.sha256(items).hexdigest())"
    hashes = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    data = Toybox("all", 64, 5, 1000)  # the number of items does not matter
    mine = hashlib.sha256(
        b"".join(data[i]["image"].tobytes() + data[i]["text"].encode() for i in (7, 3, 39))
    ).hexdigest()
    assert hashes == {f"{mine}\n"}


def test_an_image_of_another_size_shows_the_same():
    for scene in sampled(12):
        scene = dataclasses.replace(scene, style="plain")
        small = np.asarray(scene.render(128).reduce(2)).astype(int)
        assert np.abs(np.asarray(scene.render(256).reduce(4)).astype(int) - small).mean() < 8


# --- export -----------------------------------------------------------------------------------------------------------


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("file_format", ["folder", "array", "parquet"])
def test_an_export_does_not_depend_on_its_workers(tmp_path, file_format, monkeypatch):
    monkeypatch.setattr(sys.modules["t2i.data.toybox.export"], "_CHUNK", 4)
    data = Toybox("train", 32, 3, 10)
    one = export(data, tmp_path / "one", 1, file_format)
    two = export(data, tmp_path / "two", 2, file_format)
    assert contents(one) == contents(two)
    if file_format == "folder":
        lines = [json.loads(line) for line in (one / "metadata.jsonl").read_text().splitlines()]
        assert [line["text"] for line in lines] == [data.scene(i)[1] for i in range(10)]
        assert [Scene.from_dict(line["scene"]) for line in lines] == [data.scene(i)[0] for i in range(10)]


def test_an_interrupted_export_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["t2i.data.toybox.export"], "_CHUNK", 2)
    data, rendered = Toybox("train", 32, 3, 8), []

    class Interrupted(Toybox):
        def __getitem__(self, index):
            rendered.append(index)
            if len(rendered) == 5:
                raise KeyboardInterrupt
            return super().__getitem__(index)

        def fingerprint(self):
            return data.fingerprint()

    with pytest.raises(KeyboardInterrupt):
        export(Interrupted("train", 32, 3, 8), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match="unfinished export of other data"):
        export(Toybox("train", 32, 4, 8), tmp_path / "out")
    export(Interrupted("train", 32, 3, 8), tmp_path / "out")
    assert rendered == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert contents(tmp_path / "out") == contents(export(data, tmp_path / "whole"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


def test_parquet_files_open_as_a_dataset(tmp_path):
    from datasets import load_dataset

    data = Toybox("train", 32, 3, 6)
    folder = export(data, tmp_path / "parquet", 1, "parquet")
    rows = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 6
    for i, row in enumerate(rows):
        assert row["text"] == data[i]["text"]
        assert np.array_equal(np.asarray(row["image"]), data[i]["image"])


def test_backgrounds_and_sizes_occur():
    scenes = sampled(400)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {thing.size for scene in scenes for thing in scene.things} == {None, "big", "small"}


def test_inscriptions_can_be_read():
    """Their letters have enough pixels; where a prompt asks for more than its image has room for, as many as fit."""
    styles = set()
    for scene in sampled(300, family="inscription"):
        assert inscription_scale(scene) >= LETTER_SCALE[scene.style]
        assert scene.things[0].size is None  # determined by the inscription
        styles.add(scene.style)
    assert styles == {style for style, scale in LETTER_SCALE.items() if scale < inf}
    short, long = (Scene((Thing("shirt", text=text),)) for text in ("Hi", "I love generative models!"))
    assert [p.side for p in layout(long, Jitter(0))] == pytest.approx([MOST], abs=1e-9)
    coarse = dataclasses.replace(short, style="mosaic")
    assert inscription_scale(coarse) > inscription_scale(short) > inscription_scale(long) > 0
    assert inscription_scale(Scene((Thing("cat"),))) == inf


@pytest.mark.parametrize("family", ["place", "action", "several"])
def test_sizes_are_stated_only_where_they_can_be_seen(family):
    """Not in relations that determine the sizes, and not if all things have the same."""
    found = 0
    for scene in sampled(400, family=family):
        for relation in scene.relations:
            if relation.name in ("inside", "in front of", "behind", *ACTIONS):
                assert scene.things[relation.subject].size is scene.things[relation.object].size is None
        sizes = {thing.size for thing in scene.things}
        assert len(sizes) > 1 or sizes == {None}
        found += len(sizes) > 1
    assert found == 0 if family == "action" else found > 20


@pytest.mark.parametrize("relation", ["left of", "on top of", "riding", "holding", "eating"])
def test_a_big_thing_is_larger_than_a_small_one(relation):
    """By the side of its box, relative to the other thing's."""
    pairs = {"eating": ("squirrel", "burger"), "holding": ("robot", "apple"), "riding": ("cat", "horse")}
    kinds = pairs.get(relation, ("cat", "house"))
    for seed in range(5):
        ratios = []
        for size in ("small", None, "big"):
            things = Thing(kinds[0], size=size), Thing(kinds[1])
            scene = Scene(things, (Relation(0, relation, 1),), jitter_seed=seed)
            first, second = sorted(layout(scene, Jitter(seed)), key=lambda p: p.thing)
            ratios.append(first.side / second.side)
        assert ratios[0] < 0.8 * ratios[1] and ratios[2] > 1.2 * ratios[1]


# --- near misses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_near_misses_differ_in_one_fact(family):
    for i, scene in enumerate(sampled(25, "train", family)):
        others = near_misses(scene, 5, np.random.default_rng(i))
        assert len({facts(other) for other in others} | {facts(scene)}) == 6
        for other in others:
            assert not held_out_sorts(facts(other))
            assert other.background == scene.background and len(other.things) == len(scene.things)
            assert other.caption() != scene.caption()
            assert not Prediction.of(scene).fulfils(facts(other)), "an image of the scene must not show it"
            changed = sum(a != b for a, b in zip(scene.things, other.things, strict=True))
            changed += (scene.relations != other.relations) + (scene.style != other.style)
            assert 1 <= changed <= 2


def test_a_scene_turned_round_is_the_same_scene():
    for scene in sampled(60, "train", "place"):
        again = turned_round(scene)
        assert facts(again) == facts(scene)
        assert turned_round(again) == scene
