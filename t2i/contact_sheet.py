"""Contact sheets: labelled images in a grid."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_INK = (52, 50, 58)
_FRAME = (222, 220, 224)


def contact_sheet(
    images: Sequence[Image.Image],
    labels: Sequence[str],
    columns: int = 6,
    cell: int = 128,
    font_size: int = 13,
    max_lines: int = 2,
) -> Image.Image:
    """Arrange images in a grid on white, with a centred label of up to `max_lines` lines below each.

    Args:
        images: images of any size; each is fitted into a square of `cell` pixels (small ones enlarged without blur).
        labels: one per image; long ones are wrapped, and truncated with an ellipsis after the last line.
        columns: number of images per row.

    Returns:
        RGB image. Raises ValueError if there are no images or not one label for each.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"need at least one image and a label for each, got {len(images)} and {len(labels)}")
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    font = ImageFont.load_default(font_size)
    gap, line = max(8, cell // 10), round(font_size * 1.3)
    texts = [_wrap(label, font, cell + gap - 4, max_lines) for label in labels]
    label_height = max(len(lines) for lines in texts) * line + (6 if any(texts) else 0)
    step_x, step_y = cell + gap, cell + label_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(zip(images, texts, strict=True)):
        x, y = gap + (i % columns) * step_x, gap + (i // columns) * step_y
        thumbnail = _fit(image.convert("RGB"), cell)
        left, top = x + (cell - thumbnail.width) // 2, y + (cell - thumbnail.height) // 2
        sheet.paste(thumbnail, (left, top))
        draw.rectangle((left - 1, top - 1, left + thumbnail.width, top + thumbnail.height), outline=_FRAME)
        for k, text in enumerate(lines):
            draw.text((x + cell / 2, y + cell + 6 + k * line), text, fill=_INK, font=font, anchor="ma")
    return sheet


def whole_cell(images: Sequence[Image.Image], least: int = 192) -> int:
    """The smallest multiple of the images' longest side that is not below `least`: cells that show whole pixels."""
    side = max(max(image.size) for image in images)
    return side * -(-least // side)


def _fit(image: Image.Image, cell: int) -> Image.Image:
    """Scale an image to the cell; integer factors use nearest-neighbour, to show the pixels that a model generated."""
    scale = cell / max(image.size)
    if scale == 1:
        return image
    method = Image.Resampling.NEAREST if scale == int(scale) else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> list[str]:
    """Wrap to at most `max_lines` lines of `width` pixels; text that does not fit is truncated with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines[max_lines - 1 :] = [" ".join(lines[max_lines - 1 :])]
    for k, words in enumerate(lines):
        if font.getlength(words) > width:
            while words and font.getlength(words + "…") > width:
                words = words[:-1].rstrip()
            lines[k] = words + "…"
    return lines
