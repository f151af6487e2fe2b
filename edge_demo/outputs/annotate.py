"""What was seen, drawn on the picture: labels with bars, the region, where the model looked."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge_demo.errors import UserError
from edge_demo.results import Result
from edge_demo.scores import PRESENT

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
TEXT, FAINT, PANEL, BAR = (255, 255, 255), (200, 200, 200), (0, 0, 0, 150), (88, 166, 255)
REGION = (255, 200, 60)
# Colours of attention from none to most, dark to bright; the darkest are the most transparent.
HEAT = np.array([(20, 10, 60), (120, 30, 110), (220, 70, 60), (252, 170, 40), (252, 255, 165)])
# Percentiles of the attention that the colours go from and to: a few patches that stand for all must not
# hide the rest.
WHOLE = (5, 98)
OPACITY = 0.75  # of the most looked at


def draw(result: Result, top: int = 3, attention: bool = False) -> Image.Image:
    """A copy of the picture with its `top` best labels; with `attention`, also where the model looked.

    Raises UserError if the model does not tell where.
    """
    picture = result.picture.copy()
    if attention and result.attention is None:
        raise UserError(
            "the model does not tell where it looks; export it with `tfvit convert --with-attention`"
        )
    if attention:
        box = result.region or (0, 0, *picture.size)
        picture.paste(heated(picture.crop(box), result.attention), box[:2])
    canvas = ImageDraw.Draw(picture, "RGBA")
    if result.region:
        canvas.rectangle(result.region, outline=REGION, width=max(1, picture.height // 240))
    _panel(canvas, result, top)
    return picture


def heated(picture: Image.Image, attention: np.ndarray) -> Image.Image:
    """The picture under the colours of HEAT, each place as opaque as it was looked at.

    attention: float32 [rows, columns], of any scale.
    """
    share = Image.fromarray(strength(attention))
    share = np.clip(np.asarray(share.resize(picture.size, Image.Resampling.BICUBIC)), 0, 1)
    places = np.linspace(0, 1, len(HEAT))
    levels = np.arange(256) / 255
    colours = np.stack([np.interp(levels, places, channel) for channel in HEAT.T], axis=-1)
    index = np.round(255 * share).astype(np.uint8)
    heat = Image.fromarray(np.round(colours).astype(np.uint8)[index])
    return Image.composite(heat, picture, Image.fromarray(np.uint8(OPACITY * index)))


def strength(attention: np.ndarray) -> np.ndarray:
    """Attention of any scale, its percentiles of WHOLE as 0 and 1: float32 [rows, columns]."""
    low, high = np.percentile(attention, WHOLE)
    return ((attention - low) / max(high - low, 1e-12)).astype(np.float32)


def _panel(canvas: ImageDraw.ImageDraw, result: Result, top: int) -> None:
    """Labels and bars in the lower left corner."""
    width, height = result.picture.size
    unit = max(9, min(width, height) // 24)  # the height of a letter
    font, line, margin = _font(unit), round(1.5 * unit), unit // 2
    rows = [
        (label if not result.several or score < PRESENT else f"* {label}", score)
        for label, score in result.ranked[:top]
    ]
    text = max(canvas.textlength(label, font) for label, _ in rows)
    text = min(text, 0.5 * width)
    bar, number = 0.25 * width, canvas.textlength("100 %", font)
    unknown = result.label != result.ranked[0][0]
    lines = len(rows) + unknown
    top_edge = height - lines * line - 2 * margin
    right = 5 * margin + text + bar + number
    canvas.rectangle((0, top_edge, right, height), fill=PANEL)
    y = top_edge + margin
    if unknown:
        canvas.text((margin, y), result.label, TEXT, font)
        y += line
    for place, (label, score) in enumerate(rows):
        bold = place == 0 and not unknown
        canvas.text((margin, y), _cut(canvas, label, text, font), TEXT if bold else FAINT, font)
        left = 2 * margin + text
        canvas.rectangle((left, y + unit // 4, left + bar * score, y + unit), fill=BAR)
        canvas.text((left + bar + margin, y), f"{100 * score:.0f} %", TEXT if bold else FAINT, font)
        y += line


def _cut(canvas: ImageDraw.ImageDraw, text: str, width: float, font: ImageFont.ImageFont) -> str:
    """The text, or as much of its beginning as there is room for."""
    if canvas.textlength(text, font) <= width:
        return text
    while text and canvas.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont:
    """One that knows more than Latin letters if the system has it, else Pillow's own."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
