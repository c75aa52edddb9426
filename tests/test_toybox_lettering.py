"""Inscriptions: every character is distinct, whole and inside, in every lettering."""

import itertools
import string

import numpy as np
import pytest
from PIL import Image

from t2i.data.toybox.description import SceneDescription, Thing
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.lettering import GLYPHS, LETTERINGS, _breaks, text_mask
from t2i.data.toybox.render import render

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
TEXTS = (
    "a",
    "Latent Diffusion",
    "I love generative models!",
    "{jq}|_Q@$,;",
    "internationalization",
    "WWWWWWWWWWWWWWWWWWWWWWWW",
)


def ink(text, width=90, height=40, lettering="plain"):
    return np.asarray(text_mask(text, width, height, lettering))


def test_the_font_has_the_printable_ascii_characters():
    assert set(GLYPHS) == set(PRINTABLE) == set(string.printable) - set("\t\n\r\x0b\x0c")


@pytest.mark.parametrize("lettering", LETTERINGS)
@pytest.mark.parametrize("size", [(24, 24), (90, 40)])
def test_characters_differ(lettering, size):
    masks = {char: text_mask(char, *size, lettering).tobytes() for char in PRINTABLE}
    assert len(set(masks.values())) == len(masks)
    assert not any(masks[" "]) and all(any(mask) for char, mask in masks.items() if char != " ")


@pytest.mark.parametrize("char", "oO0cCsSvVxXzZlI1|")
def test_look_alikes_differ_clearly_within_a_word(char):
    """On a line of the same length: capitals are higher than small letters, and the zero has a stroke."""
    masks = {other: ink(f"n{other}n", 60, 30).astype(int) for other in "oO0cCsSvVxXzZlI1|"}
    assert all(np.abs(masks[char] - mask).sum() > 20 * 255 for other, mask in masks.items() if other != char)


def test_letterings_differ():
    for text in TEXTS:
        for a, b in itertools.combinations(LETTERINGS, 2):
            one, other = ink(text, lettering=a).astype(int), ink(text, lettering=b).astype(int)
            assert np.abs(one - other).sum() > 0.1 * max(one.sum(), other.sum())


@pytest.mark.parametrize("lettering", LETTERINGS)
@pytest.mark.parametrize("size", [(60, 30), (23, 61)])
def test_the_ink_stays_inside(lettering, size, monkeypatch):
    """Every character is pasted inside the canvas: PIL would cut it off silently."""
    pasted = []
    paste = Image.Image.paste

    def checked(self, fill, corner, mask):
        x0, y0, x1, y1 = mask.getbbox() or (0, 0, 0, 0)
        pasted.append((corner[0] + x0, corner[1] + y0, corner[0] + x1 - self.width, corner[1] + y1 - self.height))
        paste(self, fill, corner, mask)

    monkeypatch.setattr(Image.Image, "paste", checked)
    for text in (*PRINTABLE[1:], *TEXTS):
        pasted.clear()
        assert ink(text, *size, lettering).any()
        assert len(pasted) >= len(text.replace(" ", "")), text
        assert all(x0 >= 0 and y0 >= 0 and x1 <= 0 and y1 <= 0 for x0, y0, x1, y1 in pasted), text


@pytest.mark.parametrize("lettering", LETTERINGS)
def test_a_longer_text_has_all_letters(lettering):
    """Twelve separate strokes are twelve pieces of ink on one line, and as many on two."""
    for text in ("||||||||||||", "l l l l l l l l l l l l", "||||||||||||||||||||||||"):
        mask = ink(text, 120, 60, lettering) > 100
        rows = mask.any(1)
        lines = [r for r in np.split(mask, np.flatnonzero(np.diff(rows.astype(int))) + 1) if r.any()]
        pieces = sum(int((np.diff(line.any(0).astype(int), prepend=0) == 1).sum()) for line in lines)
        assert pieces == sum(not c.isspace() for c in text)


def test_the_same_text_gives_the_same_bytes():
    for lettering in LETTERINGS:
        assert text_mask("Hello", 60, 30, lettering).tobytes() == text_mask("Hello", 60, 30, lettering).tobytes()


def test_the_text_is_large_and_centred():
    for text in ("Hello", "Latent Diffusion", "stop"):
        y, x = np.nonzero(ink(text, 80, 40))
        assert max((x.max() - x.min() + 1) / 80, (y.max() - y.min() + 1) / 40) > 0.9
        assert abs(x.min() + x.max() - 79) <= 4


def test_two_lines_are_broken_at_a_space():
    mask = ink("Latent Diffusion", 60, 30) > 128
    assert not mask.any(1)[10:20].all() and mask[10:20].any()
    assert (ink("Latent Diffusion", 200, 20) > 60).any(1)[5:15].all()  # where one line is larger, there is one


def test_a_word_is_not_broken():
    for text in ("internationalization", "ab", "W" * 25):
        assert _breaks(text) == [(text,)]
    assert _breaks("a bc d") == [("a bc d",), ("a", "bc d"), ("a bc", "d")]


def test_different_texts_are_different_masks():
    """So that what is judged can be seen: "ab c" is not "a bc", and "rn" is not "m"."""
    texts = ("ab c", "a bc", "abc", "rn", "m", "Il", "II", "ll", "O0", "00", "Hello", "hello", "Hello!", "He11o")
    for name in LETTERINGS:
        masks = {text_mask(text, 60, 30, name).tobytes() for text in texts}
        assert len(masks) == len(texts)


@pytest.mark.parametrize("size", [(1, 1), (2, 8), (8, 2), (4, 4)])
def test_surfaces_that_are_too_small_stay_empty_or_take_some_ink(size):
    assert text_mask("Latent Diffusion", *size).size == size


@pytest.mark.parametrize("size", [16, 20, 32])
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.board])
def test_tiny_images_of_things_with_an_inscription(kind, size):
    for scale in ("small", None, "big"):
        scene = SceneDescription((Thing(kind, text="I love generative models", size=scale),))
        assert render(scene, size).size == (size, size)


def test_an_unknown_lettering_is_refused():
    with pytest.raises(KeyError):
        text_mask("a", 60, 30, "gothic")
