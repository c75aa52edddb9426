"""Styles: deterministic transformations of a finished image.

Lengths grow with the image, so that a style looks the same at 64 and 256 pixels. What an image shows stays
recognisable: its kinds, colours, textures and counts, and inscriptions as far as the style is fine enough: small ones
are hard to read in pixel art, mosaic and cubist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import inf, sqrt

import numpy as np
from PIL import Image, ImageFilter

from t2i.data.toybox import style_maps as maps
from t2i.data.toybox.style_maps import picture, pixels, ramp

PAPER = np.array((253, 250, 243), dtype=np.float32)
CREAM = np.array((244, 232, 206), dtype=np.float32)


def plain(image: Image.Image) -> Image.Image:
    """The image as it is."""
    return image


def watercolor(image: Image.Image) -> Image.Image:
    """Soft washes with darker rims that run into each other, on rough paper, which stays bare along the edges."""
    size = image.width
    light = maps.closed(np.asarray(image), max(1, size // 100)).astype(np.float32)
    light += 0.45 * (pixels(image) - light)  # contours of ink become faint: those of the washes are enough
    washes = picture(maps.warped(light, maps.wobble(size, 9, 0.014, seed=31)))
    dense = 255 - maps.blurred(washes, size / 400)
    wet = 255 - maps.blurred(washes, size / 20)
    rim = np.clip(dense - wet, 0, 70)
    wash = 0.64 * dense + 0.18 * wet + 0.6 * rim
    wash *= (1 + 0.26 * maps.noise(size, 7, seed=32) + 0.20 * maps.noise(size, 21, seed=33))[..., None]
    wash *= _bare_edges(size)[..., None]
    rough = maps.grain(size)[..., None]
    return picture((PAPER - wash * (PAPER / 255)) * (1 - 0.035 * rough) - 0.08 * rough * wash)


@lru_cache(maxsize=4)
def _bare_edges(size: int) -> np.ndarray:
    """1 inside, 0 along a ragged border."""
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    depth = np.minimum(place, 1 - place)
    return ramp(np.minimum(depth[:, None], depth[None, :]) + 0.03 * maps.noise(size, 14, seed=34), 0.02, 0.05)


def oil_painting(image: Image.Image) -> Image.Image:
    """Thick strokes of a brush along the edges, lit from the upper left."""
    size = image.width
    patches = _kuwahara(image, max(1, round(size / 52)))
    fine = pixels(image) - maps.blurred(image, size / 50)  # the last touches, with a thin brush
    patches += 0.4 * fine
    direction = maps.directions(image, size / 24)
    relief, shade, hue = _brushes(size)
    out = patches + 22 * maps.along(shade, direction)[..., None]
    out += maps.along(hue, direction)[..., None] * np.array((9, 0, -12), dtype=np.float32)
    grey = maps.luma(out)[..., None]
    out = grey + 1.2 * (out - grey)
    return picture(0.94 * out + 48 * maps.along(relief, direction)[..., None] + np.array((6, 2, -8), dtype=np.float32))


@lru_cache(maxsize=4)
def _brushes(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relief, lightness and warmth of strokes in each direction."""
    bristles = maps.strokes(size, 0.10, 0.020, seed=41)
    step = max(1, round(size / 128))
    relief = np.stack([b - maps.shifted(b, -step, -step) for b in bristles])
    return relief, maps.strokes(size, 0.12, 0.035, seed=42), maps.strokes(size, 0.12, 0.05, seed=43)


def _kuwahara(image: Image.Image, radius: int) -> np.ndarray:
    """The mean of the calmest of eight patches around each pixel: flat patches with sharp edges."""
    mean = pixels(image.filter(ImageFilter.BoxBlur(radius)))
    grey = image.convert("L")
    unrest = picture(np.abs(pixels(grey) - pixels(grey.filter(ImageFilter.BoxBlur(radius)))))
    unrest = pixels(unrest.filter(ImageFilter.BoxBlur(radius)))
    r, d = radius, max(1, round(0.7 * radius))
    offsets = ((r, 0), (d, d), (0, r), (-d, d), (-r, 0), (-d, -d), (0, -r), (d, -d))
    calmest = np.stack([maps.shifted(unrest, dx, dy) for dx, dy in offsets]).argmin(0)
    size = image.width
    dx, dy = (np.array([o[k] for o in offsets])[calmest] for k in (0, 1))
    grid = np.arange(size)
    indices = np.clip(grid[:, None] + dy, 0, size - 1) * size + np.clip(grid[None, :] + dx, 0, size - 1)
    return maps.warped(mean, indices)


def pencil_sketch(image: Image.Image) -> Image.Image:
    """Contours and hatching in graphite on white paper, lightly tinted with coloured pencils."""
    size = image.width
    rough = maps.grain(size)
    drawn = maps.warped(np.asarray(image), maps.wobble(size, 6, 0.008, seed=51))
    light = maps.luma(drawn.astype(np.float32))
    glow = maps.blurred(picture(light), size / 90)
    lines = np.clip((glow - light) / 42, 0, 1) * (0.75 + 0.25 * rough)
    dark = 255 - maps.blurred(picture(light), size / 64)
    hatching = sum(
        ramp(dark, start, start + 90) * hatch for start, hatch in zip((20, 95, 150), _hatching(size), strict=True)
    )
    graphite = np.clip(0.95 * lines + 0.5 * hatching, 0, 1) * (1 - 0.25 * rough)
    soft = maps.blurred(picture(drawn), size / 64)
    grey = maps.luma(soft)[..., None]
    tint = 255 + 0.62 * (soft - grey) - 0.10 * (255 - grey)
    tint += (255 - tint) * (0.45 * maps.strokes(size, 0.16, 0.02, seed=52)[6])[..., None]
    return picture(tint * (1 - 0.8 * graphite[..., None]) - 5 * np.abs(rough)[..., None])


@lru_cache(maxsize=4)
def _hatching(size: int) -> tuple[np.ndarray, ...]:
    """Three layers of parallel pencil lines, 0 (paper) to 1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (128 / size)
    layers = []
    for k, (a, b) in enumerate(((0.7, 0.72), (0.28, 0.96), (0.72, -0.69))):
        phase = (a * x + b * y) / 4.0 + 0.35 * maps.noise(size, 10, seed=53 + k)
        wave = np.abs((phase - np.floor(phase)) * 2 - 1)
        layers.append(ramp(wave, 0.35, 0.75) * (0.75 + 0.25 * maps.noise(size, 24, seed=56 + k)))
    return tuple(layers)


def pixel_art(image: Image.Image) -> Image.Image:
    """Large square pixels in a few colours."""
    size = image.width
    side = max(2, round(size / 42))
    cells = -(-size // side)
    padded = np.pad(np.asarray(image), [(0, cells * side - size)] * 2 + [(0, 0)], mode="edge")
    index = np.asarray(Image.fromarray(padded).reduce(side)).astype(int) >> 3
    colours = _palette()[index[..., 0] * 1024 + index[..., 1] * 32 + index[..., 2]]
    large = Image.fromarray(colours).resize((cells * side, cells * side), Image.Resampling.NEAREST)
    return large.crop((0, 0, size, size))


PIXEL_COLOURS = (
    0x14121C, 0x3A3644, 0x6C6878, 0xA4A2AE, 0xD4D2D8, 0xFFFFFF,
    0x6E1620, 0xC81E28, 0xF05A50, 0xF8A8A0, 0x6A3A1A, 0x8C6C58, 0xA8662E, 0xD89850, 0xF0CC94,
    0xF07818, 0xF8C020, 0xFCEC80, 0x1E5228, 0x3C9038, 0x84C850, 0xC8E8A0, 0x186868, 0x38B0B0,
    0x1A2870, 0x2C5CD0, 0x68A4F0, 0xB4DCF8, 0x4C2078, 0x9040B8, 0xCC90E0, 0xD83C88, 0xF8A0CC,
    0xF0DCE4, 0xE2C8AC, 0xD8ECFA, 0xFBF4DC, 0xE6E0D4, 0xE8E8EC, 0xB0C0D8, 0xB04830,
)  # fmt: skip


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    """The nearest colour of the palette by 5 bits of red, green and blue: uint8 (32768, 3)."""
    palette = np.array([(c >> 16, c >> 8 & 255, c & 255) for c in PIXEL_COLOURS])
    levels = np.arange(32) * 8 + 4
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 1, 3)
    nearest = (((colours - palette) ** 2) * np.array((3, 5, 2))).sum(-1).argmin(1)
    return palette[nearest].astype(np.uint8)


def mosaic(image: Image.Image) -> Image.Image:
    """Irregular little stones, cut where colours meet, in light grout."""
    size = image.width
    tile, depth = maps.tiles(size, _stones_across(size), seed=61)
    dark = maps.eroded(np.asarray(image), max(1, size // 128))  # contours are thinner than stones
    stone, cut = _stones(0.7 * pixels(image) + 0.3 * dark, tile, contrast=26)
    stone = stone + 30 * _stone_shades(size)[..., None]
    bevel = maps.shifted(depth, 1, 1) - maps.shifted(depth, -1, -1)
    stone = stone + 20 * np.clip(bevel * 2.5, -1, 1)[..., None]
    grout = np.maximum(1 - ramp(depth, 0.06, 0.24), cut)[..., None]
    return picture(stone * (1 - grout) + np.array((186, 180, 170), dtype=np.float32) * grout)


def _stones_across(size: int) -> int:
    return max(2, min(23, size // 4))  # a stone of less than four pixels would be all grout


@lru_cache(maxsize=4)
def _stone_shades(size: int) -> np.ndarray:
    """A lightness of each stone, from -0.5 to 0.5."""
    tile, _ = maps.tiles(size, _stones_across(size), seed=61)
    return (maps.generator(62).random(int(tile.max()) + 1).astype(np.float32) - np.float32(0.5))[tile]


def _stones(values: np.ndarray, tile: np.ndarray, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour of each tile, and 1 where a tile is cut in two, as it is if it has a light and a dark part."""
    light = np.round(maps.luma(values)).astype(np.int64)
    mean = _means(light, tile)[tile]
    unrest = _means(np.abs(light - mean).astype(np.int64), tile)[tile]
    part = tile * 2 + ((light > mean) & (unrest > contrast))
    colour = np.stack([_means(np.round(values[..., c]).astype(np.int64), part)[part] for c in range(3)], -1)
    cut = ((part != maps.shifted(part, 1, 0)) & (tile == maps.shifted(tile, 1, 0))) | (
        (part != maps.shifted(part, 0, 1)) & (tile == maps.shifted(tile, 0, 1))
    )
    return colour.astype(np.float32), cut.astype(np.float32)


def _means(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The mean value of each label; sums of whole numbers are the same in any order."""
    flat = label.ravel()
    return np.bincount(flat, weights=values.ravel()) / np.maximum(np.bincount(flat), 1)


def stained_glass(image: Image.Image) -> Image.Image:
    """Large panes of bright glass between dark lead, cut where colours meet."""
    size = image.width
    tile, depth = maps.tiles(size, 9, seed=71)
    drawn = maps.blurred(image, size / 256)
    glass, _ = _stones(pixels(image), tile, contrast=24)
    glass = 0.6 * drawn + 0.4 * glass
    grey = maps.luma(glass)[..., None]
    glass = grey + 1.7 * (glass - grey)
    glass = np.minimum(glass, 255) * _panes(size)
    sun = 1.04 + 0.14 * maps.noise(size, 4, seed=72) + 0.10 * maps.noise(size, 36, seed=73)
    light = maps.luma(drawn)
    contour = ramp(maps.blurred(picture(light), size / 40) - light, 16, 40)
    lead = np.maximum(0.9 - 0.9 * ramp(depth, 0.03, 0.12), contour)[..., None]
    return picture((16 + 0.92 * glass) * sun[..., None] * (1 - lead) + np.array((28, 26, 32), dtype=np.float32) * lead)


@lru_cache(maxsize=4)
def _panes(size: int) -> np.ndarray:
    """How much of red, green and blue each pane lets through."""
    tile, _ = maps.tiles(size, 9, seed=71)
    tints = np.array(
        ((1, 0.93, 0.76), (0.80, 0.92, 1), (1, 0.86, 0.86), (0.86, 0.98, 0.87), (0.96, 0.96, 0.96)), np.float32
    )
    return tints[(maps.generator(74).random(int(tile.max()) + 1) * len(tints)).astype(int)][tile]


def neon(image: Image.Image) -> Image.Image:
    """Glowing contours in the colours of things, in the dark."""
    size = image.width
    values = pixels(image.filter(ImageFilter.BoxBlur(size / 512)))
    r = max(1, round(size / 100))
    body = maps.closed(values, 2 * r)
    # Tubes follow the dark contours, and run where colours meet without one.
    contour = ramp(maps.luma(body) - maps.luma(values), 12, 55)
    meeting = ramp(maps.highest(maps.dilated(body, r) - maps.eroded(body, r)), 45, 120)
    edge = np.maximum(contour, 0.8 * meeting)[..., None]
    # A tube has the purest colour around it; where there are only greys, it is white, or violet beside black.
    hue = maps.dilated(body - maps.lowest(body)[..., None], 2 * r)
    purity = maps.highest(hue)[..., None]
    grey = 1 - ramp(purity, 24, 70)
    hue = (hue - 0.6 * maps.lowest(hue)[..., None]) / np.maximum(purity, 1)
    power = 150 + 105 * np.minimum(purity / 160, 1)  # brown is orange with less light
    light = ramp(maps.eroded(maps.luma(body), 2 * r), 30, 190)[..., None]
    white = np.array((112, 84, 200), dtype=np.float32) * (1 - light) + 228 * light
    tube = (hue * power * (1 - grey) + white * grey) * edge
    halo = maps.blurred(picture(tube), size / 36) * 1.3 + maps.blurred(picture(tube), size / 110) * 0.9
    halo = 170 * halo / (halo + 130)  # many tubes side by side do not drown each other
    faint = (body - maps.lowest(body)[..., None]) * 0.36 + 0.08 * body
    ground = np.array((14, 10, 30), dtype=np.float32)
    return picture(ground + faint + halo + 0.8 * tube + 50 * ramp(edge, 0.7, 1.0))


def ink(image: Image.Image) -> Image.Image:
    """Bold contours of a brush with black ink over flat, pale washes on cream paper."""
    size = image.width
    drawn = maps.warped(np.asarray(image), maps.wobble(size, 10, 0.006, seed=81))
    light = maps.luma(maps.blurred(picture(drawn), size / 256))
    around = maps.blurred(picture(light), size / 26)
    press = maps.noise(size, 9, seed=82)  # of the brush
    line = ramp(around - light + 9 * press, 20, 36)
    solid = ramp(60 - light, 0, 12)
    flat = maps.closed(drawn, max(1, size // 90))
    fine = ramp(maps.luma(flat.astype(np.float32)) - light, 40, 75)  # thin lines, on a dark thing too
    black = np.maximum(np.maximum(line, fine), solid)[..., None]
    wash = maps.closed(np.asarray(image), max(1, size // 90))
    wash = maps.blurred(picture(maps.warped(wash, maps.wobble(size, 5, 0.02, seed=83))), size / 100)
    grey = maps.luma(wash)[..., None]
    flat = np.floor(grey / 64 + 0.5) * 64
    wash = flat + 1.3 * (wash - grey)
    paper = CREAM * (1 - 0.03 * maps.grain(size)[..., None])
    washed = paper * (1 - 0.66 * (1 - np.clip(wash, 0, 255) / 255))
    return picture(washed * (1 - black) + np.array((22, 20, 26), dtype=np.float32) * black)


def cubist(image: Image.Image) -> Image.Image:
    """In the style of Picasso: angular shards, set off against each other, tinted and shaded, with dark contours."""
    size = image.width
    shade, tint, indices, joint = _shards(size)
    values = pixels(image)
    # Four arrangements of the shards, one the mirror image of another.
    turn = int(np.asarray(image, dtype=np.int64).sum()) % 4
    flips = [axis for axis in (0, 1) if turn >> axis & 1]
    broken = maps.warped(np.flip(values, flips), indices)
    light = maps.luma(broken)
    line = np.clip((maps.blurred(picture(light), size / 60) - light) / 36, 0, 1)
    grey = np.floor(light / 40 + 0.5)[..., None] * 40
    flat = grey + 1.15 * (broken - light[..., None])
    pale = ramp(maps.lowest(broken), 120, 220)[..., None]
    paint = 0.22 + 0.2 * pale  # a white ground is painted in as many colours as the things
    out = ((1 - paint) * flat + paint * tint) * (1 + 0.32 * shade[..., None])
    dark = np.maximum(0.85 * joint, line)[..., None]
    return picture(np.flip(out * (1 - dark) + np.array((34, 28, 30), dtype=np.float32) * dark, flips))


@lru_cache(maxsize=4)
def _shards(size: int) -> tuple[np.ndarray, ...]:
    """Shards between straight cuts: shade (-1 to 1), tint, where each pixel is taken from, and joints (1)."""
    random = maps.generator(91).random
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    x, y = np.broadcast_to(place[None, :], (size, size)), np.broadcast_to(place[:, None], (size, size))
    row, column = np.mgrid[0:size, 0:size]
    shard, joint = np.zeros((size, size), dtype=int), np.zeros((size, size), dtype=np.float32)
    for _ in range(22):  # every cut splits the largest shard through its middle
        counts = np.bincount(shard.ravel())
        mine = shard == counts.argmax()
        n = int(counts.max())  # means of whole numbers are the same on every machine
        cx, cy = (int(v[mine].sum()) / n + 0.5 for v in (column, row))
        a, b = random() * 2 - 1, random() * 2 - 1
        length = max(sqrt(a * a + b * b), 0.1)
        side = (column + 0.5 - cx) * (a / length) + (row + 0.5 - cy) * (b / length)
        near = 1 - ramp(np.abs(side).astype(np.float32), 0.35 * size / 128, 1.1 * size / 128)
        joint = np.where(mine, np.maximum(joint, near), joint)
        shard = np.where(mine & (side > 0), len(counts), shard)
    count = int(shard.max()) + 1
    paints = np.array(
        ((226, 170, 84), (112, 148, 184), (204, 128, 92), (240, 224, 184), (132, 152, 112), (236, 196, 180)), np.float32
    )
    tint = paints[(random(count) * len(paints)).astype(int)]
    turn = (random((count, 4)) * 2 - 1).astype(np.float32)
    shade = (turn[shard, 2] * (x - np.float32(0.5)) + turn[shard, 3] * (y - np.float32(0.5))) * 2
    ux, uy = x + np.float32(0.028) * turn[shard, 0], y + np.float32(0.028) * turn[shard, 1]
    px, py = (np.clip((u * size).astype(int), 0, size - 1) for u in (ux, uy))
    return shade, tint[shard], py * size + px, joint


def crayon(image: Image.Image) -> Image.Image:
    """Scribbles of bright wax crayons on white paper, with thick contours in the colours of things."""
    size = image.width
    drawn = maps.warped(np.asarray(image), maps.wobble(size, 7, 0.012, seed=101))
    body = maps.closed(drawn, max(1, size // 80)).astype(np.float32)
    light, dark = maps.luma(body), maps.luma(drawn.astype(np.float32))
    grey = light[..., None]
    colour = np.clip(0.92 * grey + 1.5 * (body - grey), 0, 255)
    contour = ramp(maps.blurred(picture(light), size / 60) - maps.luma(maps.blurred(picture(drawn), size / 200)), 8, 30)
    deep = np.minimum(colour, dark[..., None] + 60)
    rough = maps.noise(size, 64, seed=102)
    scribble = np.clip(_scribble(size) + ramp(255 - light, 120, 255) * 0.5, 0, 1)
    cover = scribble * ramp(rough, -0.9, -0.25)
    line = (contour * ramp(rough, -1.3, -0.5))[..., None]
    out = PAPER + (colour - PAPER) * cover[..., None]
    return picture(out + (0.62 * deep - out) * line)


@lru_cache(maxsize=4)
def _scribble(size: int) -> np.ndarray:
    """How much wax is on the paper where a hand moves up and down, 0 to 1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (128 / size)
    phase = (0.8 * x + 0.6 * y) / 5.5 + 0.5 * maps.noise(size, 7, seed=103) + 0.15 * maps.noise(size, 17, seed=104)
    wave = np.abs((phase - np.floor(phase)) * 2 - 1)
    return 0.25 + 0.75 * ramp(wave, 0.2, 0.6)


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "plain": plain,
    "watercolor": watercolor,
    "oil painting": oil_painting,
    "pencil sketch": pencil_sketch,
    "pixel art": pixel_art,
    "cubist": cubist,
    "mosaic": mosaic,
    "neon": neon,
    "ink": ink,
    "stained glass": stained_glass,
    "crayon": crayon,
}

# Pixels per unit of the stroke font, whose capitals are 12 units high, that letters need to be read in images of 128
# pixels. In a style as coarse as the letters, no size that fits a board is enough.
LETTER_SCALE: dict[str, float] = dict.fromkeys(STYLES, 1.1) | {"plain": 0.65}
LETTER_SCALE |= dict.fromkeys(("pixel art", "cubist", "mosaic"), inf)
