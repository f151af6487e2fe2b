"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.option_types import THREADS, Channels, Number, Pair, Region, Size
from edge_demo.preprocess import INTERPOLATIONS, RESIZE_MODES
from edge_demo.scores import NONE, SCORES


def _list_cameras(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from edge_demo.sources.feeds import cameras

    found = cameras()
    for source, name in found:
        click.echo(f"{source}  {name}")
    if not found:
        click.echo("no camera", err=True)
    ctx.exit()


def _all(options: list[Callable]) -> Callable:
    """A decorator that adds several options to a command, in this order."""
    return lambda command: functools.reduce(lambda c, option: option(c), reversed(options), command)


source_options = _all(
    [
        click.option(
            "--source",
            help="An image, a folder (searched in depth) or a glob; - for images on stdin; a video; "
            "a camera (0, /dev/video0, picamera), a stream (rtsp://, http://) or screen.",
        ),
        click.option("--size", type=Size(), help="Of the camera's or screen's pictures."),
        click.option(
            "--rate",
            type=Number(0, min_open=True),
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
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the same figures to a file.",
)
threads_option = click.option(
    "--threads", type=THREADS, help="CPU threads (default: the runtime's)."
)
# name of the parameter -> its option
RUNTIME = {
    "threads": threads_option,
    "delegate": click.option(
        "--delegate",
        metavar="LIBRARY",
        help="Let this library (libname.so) run what it can of the model.",
    ),
    "delegate_option": click.option(
        "--delegate-option", type=Pair(), multiple=True, help="For the delegate; may be repeated."
    ),
    "strict_delegate": click.option(
        "--strict-delegate", is_flag=True, help="Stop if the delegate cannot run the model."
    ),
    "weight_cache": click.option(
        "--weight-cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        help="Keep prepared weights in files here: later starts need less memory.",
    ),
    "labels": click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="One label a line in the order of the outputs, for those inside MODEL.",
    ),
    "mean": click.option(
        "--mean", type=Channels(), help="Of a model from elsewhere: input = (pixel - mean) / std."
    ),
    "std": click.option("--std", type=Channels(), help="The same; both in grey levels 0-255."),
    "resize": click.option(
        "--resize",
        type=click.Choice(RESIZE_MODES),
        help="Of a model from elsewhere: the whole picture, or its middle (default: squash).",
    ),
    "crop_fraction": click.option(
        "--crop-fraction",
        type=Number(0, 1, min_open=True),
        help="With --resize crop: how much of the picture is the middle (default: 0.875).",
    ),
    "interpolation": click.option(
        "--interpolation",
        type=click.Choice(tuple(INTERPOLATIONS)),
        help="Of a model from elsewhere (default: bilinear).",
    ),
    "scores": click.option(
        "--scores",
        type=click.Choice((*SCORES, NONE)),
        help="Of a model from elsewhere: what makes its outputs scores; none if they are "
        "(default: what its graph ends with, or softmax).",
    ),
}


def runtime_options(command: Callable) -> Callable:
    """Adds RUNTIME's options to a command, which gets `load` of them: a path to its Classifier."""

    @functools.wraps(command)
    def with_load(*args, **values):
        options = {name: values.pop(name) for name in RUNTIME}
        return command(*args, load=functools.partial(open_classifier, **options), **values)

    return _all(list(RUNTIME.values()))(with_load)


def open_classifier(
    path: Path,
    *,
    threads: int | None = None,
    delegate: str | None = None,
    delegate_option: tuple[tuple[str, str], ...] = (),
    strict_delegate: bool = False,
    weight_cache: Path | None = None,
    labels: Path | None = None,
    **foreign,
):
    """A Classifier as RUNTIME's options say, which are the arguments; what is not used is told on stderr."""
    from edge_demo.classifier import Classifier
    from edge_demo.tflite.foreign import Foreign, read_labels
    from edge_demo.tflite.runtime import Delegate

    if not delegate and (delegate_option or strict_delegate):
        raise UserError("--delegate-option and --strict-delegate need --delegate")
    return Classifier(
        path,
        threads,
        foreign=Foreign(labels and read_labels(labels), **foreign),
        delegate=delegate and Delegate(delegate, delegate_option, strict_delegate),
        weight_cache=weight_cache,
        say=functools.partial(click.echo, err=True),
    )
