"""Self-contained HTML pages: their template engine, pictures inside them. What they look like is page.css."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

INK = "#000001"  # stands for the page's text colour, light or dark
STYLE = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def template(path: Path, filters: dict[str, Callable]) -> jinja2.Template:
    """A template file, which may include page.css; what it is given is escaped.

    filters: name in the template -> function.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)


def thumbnail(pixels: np.ndarray) -> str:
    """uint8 [height, width, 3] as the data URI of a PNG, lossless."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def svg(figure: Figure, title: str) -> Markup:
    """A figure drawn in STYLE as an <svg> element as wide as its surroundings."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    element = text.getvalue().replace(INK, "currentColor")
    element = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", element)  # of groups, the same in every figure
    _, _, body = element[element.index("<svg") :].partition(">")
    width, height = (72 * inches for inches in figure.get_size_inches())
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{Markup.escape(title)}"'
    return Markup(f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box}>{body}')
