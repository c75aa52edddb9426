"""Reading images: correct values for every kind of file, and a one-sentence error for unreadable ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from t2i.data import ImageError, read_image
from t2i.data.image_file import FORMATS, open_image, read_cropped, square, to_rgb

RAMP = np.linspace(0, 65535, 4096).reshape(64, 64)  # black to white
WHITE, GREEN, PINK = (255, 255, 255), (0, 200, 0), (255, 0, 255)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(path)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def framed(mode: str, frame, middle) -> Image.Image:
    image = Image.new(mode, (8, 8), frame)
    image.paste(middle, (2, 2, 8, 8))
    return image


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (RAMP.astype(np.uint16), "x.png"),
        (RAMP.astype(np.uint16), "x.tiff"),
        (RAMP.astype(">u2"), "big.tiff"),
        (RAMP.astype(np.uint16), "x.jp2"),
        (RAMP.astype(np.uint16), "x.pgm"),
        (RAMP.astype(np.int32), "x.tiff"),
        ((RAMP / 65535).astype(np.float32), "x.tiff"),
        ((RAMP / 257).round().astype(np.uint8), "x.png"),
    ],
)
def test_grey_of_any_depth_goes_from_black_to_white(tmp_path, values, name):
    got = np.asarray(read_image(saved(Image.fromarray(values), tmp_path / name)))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(float) - RAMP[..., None] / 257).max() <= 0.51
    assert (got[0, 0].tolist(), got[-1, -1].tolist()) == ([0] * 3, [255] * 3)


def test_colours_of_16_bits_keep_their_upper_ones(tmp_path):
    (tmp_path / "x.png").write_bytes(png_of_16_bits([(65535, 32896, 0), (257, 65535, 65535)]))
    assert [pixel(tmp_path / "x.png", x) for x in (0, 1)] == [(255, 128, 0), (1, 255, 255)]
    (tmp_path / "key.png").write_bytes(png_of_16_bits([(300, 32896, 0), (257, 65535, 65535)], key=(300, 32896, 0)))
    assert [pixel(tmp_path / "key.png", x) for x in (0, 1)] == [WHITE, (1, 255, 255)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.float32([[0, 255]]), r"floats from 0 to 255; scale them to \[0, 1\]"),
        (np.float32([[-0.5, 1]]), "floats from -0.5 to 1"),
        (np.float32([[np.nan, 1]]), "floats from nan to nan"),
        (np.int32([[-5, 100]]), "integers from -5 to 100"),
        (np.int32([[0, 2**20]]), "integers from 0 to 1048576"),
        (np.int32([[0, 200]]), "32-bit integers up to 200 only; save it with 8 bits"),
    ],
)
def test_values_without_a_range_are_refused(tmp_path, values, said):
    with pytest.raises(ImageError, match=rf"x\.tiff has {said}"):
        read_image(saved(Image.fromarray(values), tmp_path / "x.tiff"))


def png_of_16_bits(colours: list[tuple[int, int, int]], key: tuple[int, int, int] | None = None) -> bytes:
    """A PNG file with one row of colours, of which `key` is transparent. Pillow cannot write it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + b"".join(struct.pack(">HHH", *colour) for colour in colours)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", len(colours), 1, 16, 2, 0, 0, 0))]
    parts += [chunk(b"tRNS", struct.pack(">HHH", *key))] if key else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b"")])


# --- transparency ---------------------------------------------------------------------------------------------------


def palette(frame: int) -> Image.Image:
    image = framed("P", frame, 1)
    image.putpalette([*PINK, *GREEN])
    return image


@pytest.mark.parametrize(
    ("image", "name", "options", "middle"),
    [
        (framed("RGB", PINK, GREEN), "x.png", {"transparency": PINK}, GREEN),
        (framed("L", 0, 200), "x.png", {"transparency": 0}, (200,) * 3),
        (framed("1", 1, 0), "x.png", {"transparency": 1}, (0,) * 3),
        (framed("1", 0, 1), "x.png", {"transparency": 0}, WHITE),
        (Image.fromarray(np.uint16([[40, 51400]])).resize((8, 8), 0), "x.png", {"transparency": 40}, (200,) * 3),
        (palette(0), "x.png", {"transparency": 0}, GREEN),
        (palette(0), "x.png", {"transparency": b"\0\xff"}, GREEN),
        (palette(0), "x.gif", {"transparency": 0}, GREEN),
        (framed("RGBA", (*PINK, 0), (*GREEN, 255)), "x.png", {}, GREEN),
        (framed("RGBA", (*PINK, 0), (*GREEN, 255)), "x.tiff", {}, GREEN),
        (framed("RGBA", (*PINK, 0), (*GREEN, 255)), "x.webp", {"lossless": True}, GREEN),
        (framed("LA", (0, 0), (200, 255)), "x.png", {}, (200,) * 3),
    ],
)
def test_what_is_transparent_is_white_and_hides_its_colours(tmp_path, image, name, options, middle):
    path = saved(image, tmp_path / name, **options)
    assert (pixel(path), pixel(path, 6, 6)) == (WHITE, middle)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    image = Image.new("RGBA", (2, 2), (0, 100, 200, 51))
    assert pixel(saved(image, tmp_path / "x.png")) == (204, 224, 244)
    assert to_rgb(image.convert("RGBa")).getpixel((0, 0)) == pytest.approx((204, 224, 244), abs=3)  # premultiplied
    assert to_rgb(image.convert("LA").convert("La")).getpixel((0, 0)) == pytest.approx((221,) * 3, abs=3)
    assert to_rgb(Image.new("PA", (2, 2), (0, 0))).getpixel((0, 0)) == WHITE


# --- colour, rotation, animation --------------------------------------------------------------------------------------


def test_other_colour_spaces_become_rgb(tmp_path):
    for name in ("x.tiff", "x.jpg"):
        assert pixel(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / name)) == (255, 0, 0)
        assert pixel(saved(Image.new("YCbCr", (8, 8), (100, 128, 128)), tmp_path / name)) == (100,) * 3
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(Image.new("RGB", (8, 8), (200, 50, 50)), srgb, lab, outputMode="LAB")
    assert pixel(saved(made, tmp_path / "lab.tiff")) == pytest.approx((200, 50, 50), abs=3)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tiff", "x.avif"])
def test_every_orientation_stands_upright(tmp_path, name):
    """An image that is darker on the left and at the top, stored in each of the eight orientations."""
    upright = np.add.outer(np.linspace(0, 160, 32), np.linspace(0, 60, 48)).astype(np.uint8)
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
        1: upright,
    }
    for orientation, pixels in stored.items():
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        exif = image.getexif()
        exif[0x0112] = orientation
        got = np.asarray(read_image(saved(image, tmp_path / name, exif=exif)))[..., 0]
        assert got.shape == upright.shape
        assert np.abs(got.astype(int) - upright).mean() < 4, orientation


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.avif", "x.tiff"])
def test_of_animations_the_first_frame_is_read(tmp_path, name):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert pixel(tmp_path / name) == pytest.approx((200, 0, 0), abs=6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_that_is_named_is_read(tmp_path, suffix):
    image = Image.new("1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB", (16, 16), "white")
    kind = {".apng": "PNG", ".jfif": "JPEG"}.get(suffix)
    assert pixel(saved(image, tmp_path / f"x{suffix}", format=kind)) == WHITE


def test_the_name_says_nothing_of_the_format(tmp_path):
    assert pixel(saved(Image.new("RGB", (8, 8), GREEN), tmp_path / "x.jpg", format="PNG")) == GREEN
    assert pixel(saved(Image.new("RGB", (8, 8), GREEN), tmp_path / "none", format="BMP")) == GREEN


def test_indices_of_a_palette_can_be_read(tmp_path):
    image = open_image(saved(palette(0), tmp_path / "x.png"))
    assert (image.mode, image.getpixel((0, 0)), image.getpixel((6, 6))) == ("P", 0, 1)


# --- squares --------------------------------------------------------------------------------------------------------


def test_squares_are_centred_and_resampled_as_pillow_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "x.png")
    resized = Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS, box=(10, 0, 50, 40))
    assert np.array_equal(read_cropped(path, (16, 16)), np.asarray(resized))
    assert np.array_equal(read_cropped(path.read_bytes(), (40, 40)), pixels[:, 10:50])
    assert np.array_equal(square(Image.fromarray(pixels[:, :40]), 40), pixels[:, :40])


def test_large_jpegs_are_decoded_no_larger_than_needed_and_look_the_same(tmp_path):
    rows = np.add.outer(np.sin(np.linspace(0, 9, 900)), np.cos(np.linspace(0, 7, 1100)))
    image = Image.fromarray(((rows + 2) * 60).astype(np.uint8)).convert("RGB")
    path = saved(image, tmp_path / "x.jpg", quality=90)
    small, whole = read_cropped(path, (64, 64)), square(read_image(path), 64)
    assert np.abs(small.astype(int) - whole).max() <= 4
    assert min(open_image(path, at_least=128).size) == 225  # a quarter


# --- what cannot be read --------------------------------------------------------------------------------------------


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def cut(size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:size]


def flipped() -> bytes:
    content = bytearray(cut(-1))
    content[3000] ^= 255
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"", "is empty; fetch it again or remove it"),
        (lambda: cut(40), "is damaged or cut short; fetch"),
        (lambda: cut(5000), r"is damaged or cut short \(image file is truncated\); fetch"),
        (flipped, r"is damaged or cut short \(.*\); fetch"),
        (bomb, "has more than 178,956,970 pixels; scale it down first"),
        (lambda: b"\n<!DOCTYPE html><html>404", "is a web page and not an image; fetch"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing; convert it to PNG"),
        (lambda: b"\0\0\0\x18ftypheic", "is HEIC; convert it to PNG or JPEG"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that can be read"),
        (lambda: b"no image", r"is not an image that can be read \(PNG, JPEG"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_the_name(tmp_path, content, said):
    (tmp_path / "x.png").write_bytes(content())
    with pytest.raises(ImageError, match=rf"^{tmp_path}/x\.png {said}") as caught:
        read_image(tmp_path / "x.png")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))
    assert str(ImageError(str(caught.value))) == str(caught.value)  # pickling recreates it in another process


def test_files_that_cannot_be_opened_say_why(tmp_path):
    with pytest.raises(ImageError, match=r"there is no image .*none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def grey_tiff(bits: int, photometric: int, data: bytes) -> bytes:
    """4×4 pixels, uncompressed."""
    tags = [
        (256, 4),
        (257, 4),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, 1),
        (278, 4),
        (279, len(data)),
    ]
    offset = 8 + 2 + 12 * len(tags) + 4
    body = b"".join(struct.pack("<HHII", tag, 4, 1, offset if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0) + data


@pytest.mark.parametrize(
    ("bits", "photometric", "data", "level"),
    [
        (16, 1, b"\0\x80" * 16, 128),
        (16, 0, b"\0\0" * 16, 255),  # white is zero
        (16, 0, b"\xff\xff" * 16, 0),
        (12, 1, b"\x80\x08\x00" * 8, 128),  # two pixels of 0x800 in three bytes
    ],
)
def test_grey_of_a_tiff_is_scaled_from_black_to_white(tmp_path, bits, photometric, data, level):
    (tmp_path / "grey.tif").write_bytes(grey_tiff(bits, photometric, data))
    assert np.unique(np.asarray(read_image(tmp_path / "grey.tif"))).tolist() == [level]


@pytest.mark.parametrize(("depth", "key"), [(4, 5), (2, 1)])
def test_a_key_colour_counts_in_the_depth_of_its_file(tmp_path, depth, key):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes([sum(key << shift for shift in range(0, 8, depth))]) * (8 * depth // 8)
    header = struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")
    (tmp_path / "key.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert np.unique(np.asarray(read_image(tmp_path / "key.png"))).tolist() == [255]
