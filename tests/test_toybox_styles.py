"""Styles: pure functions of the image that keep its size and its colours, and differ from each other."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from t2i.data.toybox.styles import STYLES

DRAWN = [name for name in STYLES if name != "plain"]
SIZES = (64, 128, 256)
HUES = {"red": (220, 30, 36), "green": (40, 160, 60), "blue": (40, 90, 220)}


def scene(size, ground="white", colour=(220, 30, 36)):
    """A disc and a box with dark outlines."""
    image = Image.new("RGB", (size, size), ground)
    draw, width = ImageDraw.Draw(image), max(1, size // 64)
    draw.ellipse((size // 8, size // 4, size // 2, size * 5 // 8), fill=colour, outline=(30, 28, 34), width=width)
    box = (size * 9 // 16, size // 2, size * 7 // 8, size * 7 // 8)
    draw.rectangle(box, fill=(250, 200, 40), outline=(30, 28, 34), width=width)
    return image


def array(image):
    return np.asarray(image).astype(int)


def test_there_are_at_least_eight_and_plain_changes_nothing():
    assert len(DRAWN) >= 8
    assert STYLES["plain"](scene(64)).tobytes() == scene(64).tobytes()


@pytest.mark.parametrize("size", [*SIZES, 96, 50, 16])
@pytest.mark.parametrize("name", STYLES)
def test_an_rgb_image_of_the_same_size_and_the_same_bytes_twice(name, size):
    image = scene(size)
    styled = STYLES[name](image)
    assert styled.mode == "RGB" and styled.size == (size, size)
    assert styled.tobytes() == STYLES[name](scene(size)).tobytes()
    assert image.tobytes() == scene(size).tobytes()  # the image itself is left as it was


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ground", ["white", (150, 200, 240), (20, 24, 60)])
def test_styles_differ_from_each_other(size, ground):
    styled = {name: array(style(scene(size, ground))) for name, style in STYLES.items()}
    for a, b in itertools.combinations(STYLES, 2):
        assert np.abs(styled[a] - styled[b]).mean() > 3, (a, b)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DRAWN)
def test_things_keep_their_hue_and_their_place(name, size):
    """The disc's strongest channel stays the strongest, and a disc's colour changes the rest little."""
    disc = np.s_[size * 5 // 16 : size * 9 // 16, size * 3 // 16 : size * 7 // 16]
    styled = {hue: array(STYLES[name](scene(size, colour=colour))) for hue, colour in HUES.items()}
    for hue, colour in HUES.items():
        assert styled[hue][disc].mean((0, 1)).argmax() == np.argmax(colour)
    if name == "cubist":  # one of four arrangements of its shards
        return
    change = np.abs(styled["red"] - styled["blue"]).mean(-1)
    outside = change.copy()
    outside[: size * 3 // 4, : size * 5 // 8] = 0
    assert change[disc].mean() > 10 and change[disc].mean() > 10 * outside.mean()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DRAWN)
def test_things_that_look_alike_stay_alike(name, size):
    """The ground far from the things does not depend on them (where shards are not arranged by the image)."""
    if name == "cubist":
        return
    corner = np.s_[: size // 12, size * 11 // 12 :]
    empty = Image.new("RGB", (size, size), "white")
    assert np.abs(array(STYLES[name](scene(size)))[corner] - array(STYLES[name](empty))[corner]).max() <= 8


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (220, 30, 36), (40, 90, 220)])
@pytest.mark.parametrize("name", DRAWN)
def test_a_uniform_image_stays_calm(name, colour):
    """No colours out of nowhere: no step of the calculation divides by zero or overflows."""
    with np.errstate(all="raise", under="ignore"):
        styled = array(STYLES[name](Image.new("RGB", (128, 128), colour)))
    rows = styled.reshape(8, 16, 8, 16, 3).mean((1, 3))  # patches of 16 × 16
    assert np.abs(rows - np.median(rows, (0, 1))).mean() < 32
    assert np.ptp(styled.mean((0, 1))) < 1.6 * np.ptp(colour) + 45


def test_cubist_has_four_arrangements_at_most():
    """Images that differ in one value have the same shards, mirrored."""
    image = array(scene(128))
    results = set()
    for k in range(8):
        image[0, 0] = (250, 250, 240 + k)
        results.add(array(STYLES["cubist"](Image.fromarray(image.astype(np.uint8))))[8:-8, 8:-8].tobytes())
    assert len(results) == 4
