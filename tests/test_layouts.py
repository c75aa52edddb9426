"""Toybox's label maps, and label maps next to images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2i.data.layouts import WithLayouts, read_labels
from t2i.data.sources import open_source
from t2i.data.toybox.backgrounds import NUM_VARIANTS, background
from t2i.data.toybox_v1 import KINDS, LABELS, Scene, Thing, Toybox, export


@pytest.mark.parametrize(("size", "num"), [(64, 20), (96, 6)])
def test_a_map_fits_its_picture_to_the_pixel(size, num):
    """Pixels that change with the colour are inside the map, except soft edges; those outside are ground or shadow."""
    soft = ImageFilter.MaxFilter(3)
    for scene in (Toybox(num=num, seed=2).scene(i)[0] for i in range(num)):
        labels = scene.layout(size)
        things = [[dataclasses.replace(t, attribute=a) for t in scene.things] for a in ("black", "white")]
        black, white = (
            np.asarray(dataclasses.replace(scene, things=tuple(t)).render(size)).astype(int) for t in things
        )
        changes = np.abs(black - white).max(-1)
        inside = labels > 0
        assert changes[~inside].max() < 128  # the object covers less than half of the pixel
        near = np.asarray(Image.fromarray(inside.astype(np.uint8)).filter(soft)) > 0
        assert changes[~near].max() == 0
        ground = [np.asarray(background(scene.background, size, v)).astype(int) for v in range(NUM_VARIANTS)]
        far = [np.where(near[..., None], 0, black - g) for g in ground]
        nearest = min(far, key=lambda d: np.abs(d).sum())
        assert nearest.max() <= 0  # shadows darken the ground, and nothing else changes it
        assert not nearest[0].any()  # and there are none at the top
        rim = inside & (np.asarray(Image.fromarray((~inside).astype(np.uint8)).filter(soft)) > 0)
        on_white = dataclasses.replace(scene, things=tuple(things[0]), background="white").render(size)
        assert np.asarray(on_white).max(-1)[rim].mean() < 110  # black things: the map ends at their edge
        assert set(np.unique(labels)) - {0} <= {LABELS.index(t.kind) for t in scene.things}


def test_where_things_overlap_the_map_shows_the_upper_one():
    scene = Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of", "meadow", 5)
    labels = scene.layout(64)
    cat, car = (np.nonzero(labels == LABELS.index(kind))[0] for kind in ("cat", "car"))
    assert cat.mean() < car.mean()
    assert list(LABELS) == ["background", *KINDS]
    with pytest.raises(ValueError, match="at least 16×16 pixels, not"):
        scene.layout(8)


def test_maps_on_disk_are_the_scenes_own_and_a_source_reads_them(tmp_path):
    folder = export(tmp_path / "boxes", 3, seed=4, layouts=True)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    world = Toybox(num=3, seed=4)
    direct = WithLayouts(world, "layout", LABELS)
    read = WithLayouts(open_source(str(folder), 64), "layout", LABELS, folder)
    by_name = WithLayouts(open_source(str(_as_names(folder, lines)), 64), "map", LABELS, folder)
    for i, line in enumerate(lines):
        want = world[i]["scene"].layout(64)
        assert np.array_equal(read_labels(Image.open(folder / line["layout_file_name"]), LABELS), want)
        for source in (direct, read, by_name):
            assert np.array_equal(source[i]["layout"], want)
            assert np.array_equal(source[i]["image"], world[i]["image"])
    with pytest.raises(ValueError, match="choose the format 'folder'"):
        export(tmp_path / "more", 3, layout="array", layouts=True)


def _as_names(folder: Path, lines: list[dict]) -> Path:
    """The same data with the maps' file names as plain text."""
    other = shutil.copytree(folder, folder.with_name("named"))
    named = [{"file_name": s["file_name"], "text": s["text"], "map": s["layout_file_name"]} for s in lines]
    (other / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))
    return other
