"""A report as one self-contained web page: style, script and images are embedded, and nothing is loaded.

Pages are Jinja2 templates (templates/). All text is escaped, and a page's content security policy allows only its own
script, so a prompt cannot run code.
"""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.eval.report.report import Curve, Report, Score, Table
from t2i.eval.report.text import flat, interval, number

TEMPLATES = Path(__file__).parent / "templates"
EXACT, LARGEST = 256, 512  # images up to EXACT pixels are embedded as they are, others as JPEG of at most LARGEST
PIXELATED = 128  # images up to this size are enlarged without smoothing
WIDE = 600  # images with at least this side get their own row: plots and contact sheets


def page(report: Report) -> str:
    """The report's page."""
    return render("report.html.jinja", "report", title=report.title, report=report)


def render(template: str, assets: str, folder: Path = TEMPLATES, **context: object) -> str:
    """Render a template that extends base.html.jinja, with the assets common.css, ASSETS.css and ASSETS.js.

    Args:
        folder: first folder searched for the template.
        context: values of the template; base.html.jinja needs `title`, and embeds `data`, if given, as JSON in the
            element #data, which the script may read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # deferred: --help does not need it
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "interval": interval, "flat": flat, "data_uri": data_uri}
    environment.filters |= {"chart": _chart, "bar": _bar, "columns": _columns}
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    script = _asset(f"{assets}.js")
    return environment.get_template(template).render(
        {"data": None, "PIXELATED": PIXELATED, "WIDE": WIDE} | context,
        style=Markup(_asset("common.css") + _asset(f"{assets}.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _chart(curve: Curve) -> str:
    from t2i.eval.report.charts import chart  # matplotlib takes half a second to import

    return chart(curve)


def _columns(table: Table) -> list[tuple[str, str]]:
    """Name and class of each column: numbers are right-aligned and sorted numerically."""
    texts = [any(isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    return [(name, "text" if text else "number") for name, text in zip(table.columns, texts, strict=True)]


def _bar(score: Score) -> dict[str, float]:
    """Value, low, high and ceiling in per cent of the bar, which spans 0 to 1 for a share, else 0 to the maximum."""
    known = {name: getattr(score, name) for name in ("value", "low", "high", "ceiling")}
    known = {name: value for name, value in known.items() if value is not None}
    start, end = (0.0, 1.0) if score.share else (min(0.0, *known.values()), max(0.0, *known.values()) * 1.1)
    return {name: 100 * (value - start) / ((end - start) or 1) for name, value in known.items()}


# --- images ---------------------------------------------------------------------------------------------------------


def on_white(image: Image.Image) -> Image.Image:
    """An RGB copy without metadata, which could identify the system; transparent pixels become white."""
    if image.mode in ("RGBA", "LA", "P", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return Image.fromarray(np.array(image.convert("RGB")))


def png(image: Image.Image) -> bytes:
    """`on_white` as a PNG."""
    file = io.BytesIO()
    on_white(image).save(file, format="PNG")
    return file.getvalue()


def data_uri(image: Image.Image, exact: bool | None = None) -> str:
    """The image as a data URI: exact as PNG, otherwise JPEG with sides of at most LARGEST pixels.

    By default images with sides of at most EXACT pixels are exact.
    """
    if max(image.size) <= EXACT if exact is None else exact:
        return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    image, file = on_white(image), io.BytesIO()
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    image.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
