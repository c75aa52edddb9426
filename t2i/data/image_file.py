"""Reading of image files, for training, unconditional models, editing, masks and evaluation.

Images are converted to 8-bit RGB: rotated according to EXIF, scaled by bit depth, transparency on white; only the first
frame of animations. Files that cannot be read raise `ImageError`, one sentence with the file's name.

Shapes: H × W image · h × w crop · S side of a square image
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from t2i.data.base import ItemError
from t2i.notes import line_of

FORMATS = {  # suffix: name of the format in messages
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WebP",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".jp2": "JPEG 2000",
    ".pbm": "PNM",
    ".pgm": "PNM",
    ".ppm": "PNM",
    ".pnm": "PNM",
}
# Suffixes of unsupported image formats: in a folder they are reported instead of ignored.
OTHER_FORMATS = frozenset(
    {
        *(".arw", ".bpg", ".cr2", ".cr3", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".icns", ".ico"),
        *(".j2k", ".jxl", ".nef", ".pcx", ".pdf", ".pfm", ".psd", ".qoi", ".raw", ".sgi", ".svg", ".tga", ".xcf"),
    }
)
KINDS = tuple(dict.fromkeys(FORMATS.values()))
# Pillow's decoders of these. Others are not used, since some run programs and file names do not tell the format.
_DECODERS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
_MAGIC = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"P5", b"P6")
_MASKS = "a mask is black and white, white where to repaint"
_DECODED = 2  # times the requested side: a JPEG is decoded no larger than needed, but large enough to downsample


class ImageError(ItemError):
    """An image file that cannot be read: one sentence with its name and the remedy."""


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB: rotated, scaled to 8 bits by its bit depth, transparency on white.

    Reads the formats in FORMATS, regardless of the suffix. 32-bit integers must fit in 16 bits, floats be in [0, 1].
    Raises ImageError, a ValueError, if the file is missing, empty, damaged, not an image or has too many pixels.
    """
    return to_rgb(open_image(path), str(path))


def read_cropped(
    file: str | Path | bytes, shape: tuple[int, int], name: str | None = None, position: float = 0.5
) -> np.ndarray:
    """A crop of an image file, or of its content -> uint8 (h, w, 3); see `cropped`.

    A JPEG is decoded at 1/8, 1/4 or 1/2 of its size if its shorter side then still has at least twice the longer side
    of `shape`. Raises ImageError as `read_image` does.
    """
    name = name or str(file)
    image = open_image(io.BytesIO(file) if isinstance(file, bytes) else file, name, at_least=_DECODED * max(shape))
    return cropped(to_rgb(image, name), shape, position)


def square(image: Image.Image, size: int, position: float = 0.5) -> np.ndarray:
    """`cropped` to a square: uint8 (size, size, 3)."""
    return cropped(image, (size, size), position)


def cropped(image: Image.Image, shape: tuple[int, int], position: float = 0.5) -> np.ndarray:
    """Convert with `to_rgb`, crop and resize to uint8 (h, w, 3).

    The crop is the largest rectangle with the aspect ratio of `shape`, (h, w). Its position along the side that is cut,
    in [0, 1], is by default the centre.
    """
    image = to_rgb(image)
    width, height = image.size
    h, w = shape
    crop_width, crop_height = max(1, min(width, height * w // h)), max(1, min(height, width * h // w))
    left, top = int((width - crop_width) * position), int((height - crop_height) * position)
    box = (left, top, left + crop_width, top + crop_height)
    if (crop_width, crop_height) == (w, h):
        return np.array(image if image.size == (w, h) else image.crop(box))
    return np.array(image.resize((w, h), Image.Resampling.LANCZOS, box))


def open_image(file: str | Path | io.BytesIO, name: str | None = None, at_least: int | None = None) -> Image.Image:
    """Open an image file, decoded and rotated, in its own mode (palette indices are kept).

    Args:
        file: path or stream.
        name: name in messages; by default the path.
        at_least: minimum length of the shorter side to which a JPEG may be downscaled in decoding.

    Raises ImageError as `read_image` does.
    """
    name = name or str(file)
    try:
        with Image.open(file, formats=_DECODERS) as image:
            if at_least is not None and image.format in ("JPEG", "MPO"):
                scale = min(image.size) // at_least
                if scale > 1:
                    image.draft(None, (image.width // scale, image.height // scale))
            deep, raw = _is_of_16_bits(image), str(image.tile[0][3]) if image.tile else ""
            image.load()
    except FileNotFoundError:
        raise ImageError(f"there is no image {name}") from None
    except Exception as error:  # decoders raise any kind of error for damaged files
        raise ImageError(f"{name} {_why(error, file)}") from error
    if min(image.size) < 1:
        raise ImageError(f"{name} has no pixels ({image.width}×{image.height}); remove it")
    if deep and isinstance(key := image.info.get("transparency"), tuple):  # Pillow reduces only the pixels to 8 bits
        image.info["transparency"] = tuple(level >> 8 for level in key)
    if raw in ("L;2", "L;4") and isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * 255 // (2 ** int(raw[2:]) - 1)  # Pillow scales only the pixels
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        image = _tiff_levels(image)
    return _rotated(image)


def _tiff_levels(image: Image.Image) -> Image.Image:
    """Scale grey levels of a TIFF file, which Pillow returns unscaled, to 16 bits from black to white."""
    bits, inverted = image.tag_v2.get(258, (16,))[0], image.tag_v2.get(262) == 0  # BitsPerSample, WhiteIsZero
    if bits == 16 and not inverted:
        return image
    levels = np.asarray(image).astype(np.float64) * (65535 / (2**bits - 1))
    made = Image.fromarray((65535 - levels if inverted else levels).round().astype(np.uint16))
    made.info, made.format = dict(image.info), image.format
    return made


def _why(error: Exception, file: str | Path | io.BytesIO) -> str:
    """The reason and remedy for an error that Pillow raised for a file."""
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; scale it down first"
    if isinstance(error, MemoryError):
        return "does not fit into the memory that is left; scale it down first"
    if isinstance(error, UnidentifiedImageError):
        return _what_else(file)
    if isinstance(error, OSError) and error.errno is not None:  # from the system, such as a missing permission
        return f"cannot be read: {error.strerror}"
    return f"is damaged or cut short ({line_of(error)}); fetch it again or remove it"


def dimensions(file: str | bytes | Image.Image, name: str) -> tuple[int, int]:
    """Width and height of an image file, or of its content, by its header, rotated according to EXIF.

    EXIF data that follow the pixels, which PNG allows, are not read. Raises ImageError as `read_image` does.
    """
    if isinstance(file, Image.Image):
        return file.size
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with Image.open(stream, formats=_DECODERS) as image:
            return image.size[::-1] if _is_transposed(image) else image.size
    except Exception as error:  # decoders raise any kind of error for damaged files
        raise ImageError(f"{name} {_why(error, stream)}") from error


def suffix_of(content: bytes) -> str:
    """The suffix of an image file's format, by its content; ".png" if it is no image."""
    try:
        with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
            suffix = f".{(image.format or '').lower()}"
    except Exception:  # decoders raise any kind of error for damaged files
        return ".png"
    usual = {".jpeg": ".jpg", ".mpo": ".jpg", ".jpeg2000": ".jp2", ".dib": ".bmp"}
    return usual.get(suffix, suffix)


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Convert an image of any mode to RGB: scaled to 8 bits by its bit depth, transparency on white.

    Raises ImageError for values without a fixed range: integers beyond 16 bits, and floats outside [0, 1].
    """
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode.startswith(("I", "F")):
        return Image.fromarray(_grey_levels(image, name)).convert("RGB")
    try:
        if mode in ("1", "L", "RGB") and "transparency" in image.info:
            return Image.fromarray(_without_key(image))
        if mode in ("RGBA", "LA", "PA", "RGBa", "La") or (mode == "P" and image.has_transparency_data):
            image = image.convert("LA") if mode == "La" else image  # the only mode to which Pillow converts it
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")
    except Exception as error:  # a mode that Pillow cannot convert, possibly for lack of a colour profile
        raise ImageError(f"{name} is of mode {mode}, which cannot be converted to RGB ({line_of(error)})") from error


def to_eight_bits(image: Image.Image, name: str = "the image") -> Image.Image:
    """Convert grey images of 16 bits or floats to mode L, scaled as by `to_rgb`; others are returned unchanged."""
    return Image.fromarray(_grey_levels(image, name)) if image.mode.startswith(("I", "F")) else image


def to_mask(image: Image.Image, name: str = "the mask") -> np.ndarray:
    """Convert a black and white image of any mode to uint8 (H, W), scaled by its bit depth.

    Raises ImageError if it has colours or transparent pixels.
    """
    image = to_eight_bits(image, name)
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.array(image.convert("L"))
    if image.mode in ("1", "L", "RGB", "P", "RGBA", "LA"):  # black and white, saved as colours
        colours = np.array(image.convert("RGBA"))
        if (colours[..., 3] < 255).any():
            raise ImageError(f"{_MASKS}; {name} is transparent in places: save it without")
        if (colours[..., :3] == colours[..., :1]).all():
            return colours[..., 0]
    raise ImageError(f"{_MASKS}; {name} has colours (mode {image.mode}): save it in grey")


def name_of(image: Image.Image, otherwise: str) -> str:
    """The file that an image was opened from, if known, else `otherwise`."""
    return str(getattr(image, "filename", "") or otherwise)


def _grey_levels(image: Image.Image, name: str) -> np.ndarray:
    """Grey levels of an image of mode I, I;16… or F -> uint8 (H, W)."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not -1e-5 <= low <= high <= 1 + 1e-5:  # NaN fails too
            raise ImageError(f"{name} has floats from {low:.6g} to {high:.6g}; scale them to [0, 1], or save 8 bits")
        levels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    else:
        if not 0 <= low <= high <= 65535:
            raise ImageError(f"{name} has integers from {low:.0f} to {high:.0f}; save it with 8 or 16 bits, from 0 up")
        if (
            image.mode == "I" and image.format not in ("PNG", "PPM") and 0 < high < 256
        ):  # it is unknown whether they have 8 or 16 bits
            raise ImageError(f"{name} has 32-bit integers up to {high:.0f} only; save it with 8 bits")
        levels = (values.astype(np.float32) / np.float32(257)).round().astype(np.uint8)
    key = image.info.get("transparency")
    return levels if key is None else np.where(values == key, np.uint8(255), levels)


def _without_key(image: Image.Image) -> np.ndarray:
    """Replace the transparent colour by white: uint8 (H, W, 3)."""
    key, plain = image.info["transparency"], image.copy()
    del plain.info["transparency"]
    pixels = np.array(plain.convert("RGB"))
    pixels[(pixels == np.array(key)).all(-1)] = 255
    return pixels


def _rotated(image: Image.Image) -> Image.Image:
    """Rotate according to EXIF data; damaged ones, which are common, are ignored."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
    except Exception:
        return image
    return ImageOps.exif_transpose(image)


def _is_transposed(image: Image.Image) -> bool:
    """Whether EXIF data in the header exchange width and height."""
    try:
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) >= 5  # a PNG's own method would decode it
    except Exception:  # damaged data, as in `_rotated`
        return False


def _is_of_16_bits(image: Image.Image) -> bool:
    """Whether Pillow, which has no mode for 16-bit colours, would reduce them to 8 bits."""
    return image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)


def _what_else(file: str | Path | io.BytesIO) -> str:
    """The type of a file unknown to Pillow, and the remedy."""
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:512]
    else:
        with Path(file).open("rb") as opened:
            head = opened.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty; fetch it again or remove it"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the image; run `git lfs pull`"
    if b"<svg" in text:
        return "is an SVG drawing; convert it to PNG"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page and not an image; fetch it again or remove it"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "is HEIC; convert it to PNG or JPEG"
    if head.startswith(_MAGIC) or head[4:12] == b"ftypavif":
        return "is damaged or cut short; fetch it again or remove it"
    return f"is not an image that can be read ({', '.join(KINDS)}); convert or remove it"
