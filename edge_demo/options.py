"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable

import click


class Size(click.ParamType):
    """WIDTHxHEIGHT."""

    name = "WIDTHxHEIGHT"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            self.fail(f"{value!r} is not like 640x480", param, ctx)
        return int(width), int(height)


class Region(click.ParamType):
    """LEFT,TOP,RIGHT,BOTTOM."""

    name = "LEFT,TOP,RIGHT,BOTTOM"

    def convert(self, value, param, ctx) -> tuple[float, float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            left, top, right, bottom = map(float, str(value).split(","))
        except ValueError:
            left = top = right = bottom = -1.0
        if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
            self.fail(f"{value!r} is not like 0.25,0,0.75,1 or 160,0,480,480", param, ctx)
        return left, top, right, bottom


def _list_cameras(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from edge_demo.sources import cameras

    found = cameras()
    for source, name in found:
        click.echo(f"{source}  {name}")
    if not found:
        click.echo("no camera", err=True)
    ctx.exit()


def _all(options: list[Callable]) -> Callable:
    """A decorator that adds several options to a command, in this order."""
    return lambda command: functools.reduce(lambda c, option: option(c), reversed(options), command)


def _source(required: bool) -> Callable:
    return click.option(
        "--source",
        required=required,
        help="An image, a folder (searched in depth) or a glob; - for images on stdin; a video; "
        "a camera (0 or /dev/video0), a stream (rtsp://, http://) or screen.",
    )


_of_source = _all(
    [
        click.option("--size", type=Size(), help="Of the camera's or screen's pictures."),
        click.option(
            "--rate",
            type=click.FloatRange(0, min_open=True),
            help="Frames a second of a camera.",
        ),
        click.option("--pixel-format", help="Of a camera, as FFmpeg names it: mjpeg, yuyv422."),
        click.option(
            "--region", type=Region(), help="Look at this part: pixels, or shares of each picture."
        ),
        click.option("--every", type=click.IntRange(1), default=1, help="Take one frame of N."),
        click.option("--limit", type=click.IntRange(1), help="End after so many pictures."),
        click.option(
            "--list-cameras",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_list_cameras,
            help="Show what --source can be on this machine, and end.",
        ),
    ]
)
source_options = _all([_source(required=True), _of_source])
optional_source_options = _all([_source(required=False), _of_source])
runtime_options = _all(
    [
        click.option(
            "--threads", type=click.IntRange(1), help="CPU threads (default: the runtime's)."
        ),
    ]
)
