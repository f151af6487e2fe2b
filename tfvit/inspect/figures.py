"""The paper's figures 6 and 7 of one model, drawn; what is drawn comes from attention.py and weights.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from edge_demo.outputs.annotate import heated, strength
from tfvit.architecture import Architecture
from tfvit.inspect.attention import distances
from tfvit.page import INK, STYLE

HEAT, ACCENT = "inferno", "#3f8fe0"
GAP = 0.12  # between tiles, of the smaller side of one
MOST_PLACES = 9  # along an axis whose similarity to all others is shown
BRIGHTEST = 99.0  # percentile of a head's attention that is the brightest colour
ACROSS = 7  # filters beside each other, as in the paper
TICK, CAPTION = 8, 9  # points


def _drawn(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Has a figure in the page's style."""
    return functools.wraps(draw)(matplotlib.rc_context(STYLE)(draw))


@_drawn
def filters(components: np.ndarray) -> Figure:
    """Principal components of filters, [k, height, width, 3], the largest first; zero is grey."""
    rows = -(-len(components) // ACROSS)
    figure = Figure(figsize=(0.8 * ACROSS, 0.8 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(rows, ACROSS, squeeze=False).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, component in zip(axes, components):
        share = 0.5 + 0.5 * component / np.abs(component).max()
        axis.imshow(share, interpolation="none")
    return figure


@_drawn
def positions(
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray], arch: Architecture
) -> Figure:
    """Cosine similarity of the position embedding of some places to those of all.

    similarity: (rows, columns) of places -> [rows, columns, down, across], see `position_similarity`.
    """
    places = [np.arange(n)[:: -(-n // MOST_PLACES)] for n in arch.grid]
    tiles = similarity(*places)
    figure = Figure(figsize=_size(tiles, 5.2, extra=(1.1, 0.6)), layout="constrained")
    axis = figure.subplots()
    image = _mosaic(axis, tiles, cmap="viridis", vmin=-1, vmax=1)
    _label(axis, tiles, [places[0] + 1, places[1] + 1], ("patch row", "patch column"))
    bar = figure.colorbar(image, cax=axis.inset_axes([1.04, 0, 0.03, 1]))
    bar.set_label("cosine similarity", fontsize=CAPTION)
    bar.set_ticks([-1, 0, 1], labels=["-1", "0", "1"], fontsize=TICK)
    bar.outline.set_visible(False)
    return figure


@_drawn
def distance(pixels: np.ndarray, arch: Architecture) -> Figure:
    """Mean attention distance of each head, [depth, heads], over the depth."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    blocks = np.arange(1, len(pixels) + 1)
    for far in pixels.T:
        axis.plot(blocks, far, "o", color=ACCENT, markersize=5.5, alpha=0.65, markeredgewidth=0)
    axis.plot(
        blocks, pixels.mean(axis=1), color=INK, alpha=0.5, linewidth=1, label="mean of the heads"
    )
    everywhere = distances(arch).mean()
    axis.axhline(
        everywhere,
        color=INK,
        alpha=0.5,
        linewidth=1,
        linestyle=":",
        label="looking at all patches alike",
    )
    axis.set(xlabel="block", ylabel="mean attention distance, pixels", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(color=INK, alpha=0.12)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=CAPTION)
    return figure


@_drawn
def rollouts(
    shown: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]], captions: Sequence[Sequence[str]]
) -> Figure:
    """Pictures in rows: as they are, as the paper's figure 6 has them, and under heat maps.

    shown: uint8 [height, width, 3] and, by name of a column, [down, across] of each; the first map is also
    drawn as in figure 6. captions: of each picture, one for each map, drawn below it.
    """
    pixels, maps = shown[0]
    columns = 2 + len(maps)
    side, below = min(2.1, 9.0 / columns), 0.22 * any(map(any, captions))
    tall = side * pixels.shape[0] / pixels.shape[1] + below
    figure = Figure(figsize=(columns * side, len(shown) * tall + 0.25), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, (pixels, maps), texts in zip(axes, shown, captions):
        picture = Image.fromarray(pixels)
        own = next(iter(maps.values()))
        drawn = [picture, spotlight(picture, own), *(heated(picture, m) for m in maps.values())]
        for axis, image, text in zip(row, drawn, ("", "", *texts)):
            axis.imshow(np.asarray(image), interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(text, fontsize=TICK)
    for axis, name in zip(axes[0], ("picture", "attention", *maps)):
        axis.set_title(name, fontsize=CAPTION, parse_math=False)
    return figure


@_drawn
def heads(
    pixels: np.ndarray, maps: np.ndarray, query: tuple[int, int] | None, arch: Architecture
) -> Figure:
    """A picture, uint8 [height, width, 3], and where each head of each block looks in it.

    maps: [depth, heads, down, across], each drawn from its least to nearly its most. query: the patch that
    looks, marked; None is what the head reads.
    """
    tiles = maps.transpose(1, 0, 2, 3)  # a row per head, a column per block
    low = tiles.min(axis=(2, 3), keepdims=True)
    high = np.percentile(tiles, BRIGHTEST, axis=(2, 3), keepdims=True)
    tiles = np.clip((tiles - low) / np.maximum(high - low, np.finfo(np.float32).tiny), 0, 1)
    width, height = _size(tiles, 0.62 * tiles.shape[1])
    left = min(2.2, max(1.2, height))
    figure = Figure(figsize=(width + left + 0.6, max(height, left) + 0.5), layout="constrained")
    beside, axis = figure.subplots(1, 2, width_ratios=(left, width + 0.4))
    beside.imshow(pixels, interpolation="none")
    beside.axis("off")
    beside.set_anchor("N")
    if query is not None:
        row, column = ((n + 0.5) * arch.stride - 0.5 for n in query)
        for colour, line in (("#101010", 4.0), ("white", 2.0)):
            beside.plot(column, row, "o", ms=10, mfc="none", mec=colour, mew=line)
    _mosaic(axis, tiles, cmap=HEAT, vmin=0, vmax=1)
    depth = np.arange(1, tiles.shape[1] + 1)
    _label(axis, tiles, [np.arange(1, len(tiles) + 1), depth], ("head", "block"))
    return figure


def spotlight(picture: Image.Image, attention: np.ndarray) -> Image.Image:
    """A picture, dark where it is not looked at, as in the paper's figure 6.

    attention: [down, across]. Source: google-research/vision_transformer, issue 27, whose brightest patch is
    that of the whole; here it is the percentile of `strength`.
    """
    patch = picture.height / attention.shape[0]
    mask = Image.fromarray(np.clip(strength(attention), 0, 1))
    mask = np.clip(mask.resize(picture.size, Image.Resampling.LANCZOS), 0, 1)
    mask = Image.fromarray(np.uint8(255 * mask)).filter(ImageFilter.GaussianBlur(patch))
    share = np.asarray(mask, np.float32)
    share = (share - share.min()) / max(np.ptp(share), 1)
    return Image.fromarray(np.uint8(np.asarray(picture) * share[..., np.newaxis]))


def _size(
    tiles: np.ndarray, width: float, extra: tuple[float, float] = (0, 0)
) -> tuple[float, float]:
    """Inches of tiles [rows, columns, h, w] that are `width` wide, and for what is beside and below them."""
    rows, columns, h, w = tiles.shape
    gap = _gap(tiles)
    return width + extra[0], width * (rows * (h + gap) - gap) / (columns * (w + gap) - gap) + extra[
        1
    ]


def _gap(tiles: np.ndarray) -> int:
    return max(1, round(GAP * min(tiles.shape[2:])))


def _mosaic(axis: Axes, tiles: np.ndarray, **options):
    """Tiles [rows, columns, h, w] as one image, nothing between them."""
    gap = _gap(tiles)
    padded = np.pad(
        tiles.astype(np.float32), [(0, 0), (0, 0), (0, gap), (0, gap)], constant_values=np.nan
    )
    rows, columns, h, w = padded.shape
    image = padded.transpose(0, 2, 1, 3).reshape(rows * h, columns * w)[:-gap, :-gap]
    return axis.imshow(np.ma.masked_invalid(image), interpolation="none", **options)


def _label(axis: Axes, tiles: np.ndarray, names: list[np.ndarray], titles: tuple[str, str]) -> None:
    """Names the rows and the columns of a mosaic."""
    gap = _gap(tiles)
    for place, name, title, size in zip((axis.yaxis, axis.xaxis), names, titles, tiles.shape[2:]):
        place.set_ticks(np.arange(len(name)) * (size + gap) + (size - 1) / 2, name, fontsize=TICK)
        place.set_tick_params(length=0)
        place.set_label_text(title, fontsize=CAPTION)
    axis.spines[:].set_visible(False)
