"""The `edge-demo` command."""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

import click

from edge_demo.errors import UserError
from edge_demo.scores import SIGMOID

RECENT = 1000  # inference times that the median is of
EXAMPLES = """\b
Examples:
  edge-demo int8.tflite --source photo.jpg
  edge-demo int8.tflite --source photos/ --json > results.jsonl
  edge-demo int8.tflite --source 'photos/**/*.png' --top 1
  edge-demo int8.tflite --source 0 --size 640x480
  edge-demo int8.tflite --source rtsp://10.0.0.8/stream --json
  ffmpeg ... -f image2pipe - | edge-demo int8.tflite --source -
"""


class OneLineErrors:
    """Mixed into a click command: errors that a user can put right end as one line on stderr."""

    def make_context(self, *args, **kwargs) -> click.Context:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context):
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(error.format_message().replace("\n", " ") + where, error.exit_code)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has nowhere to go
        if error.errno != errno.EPIPE:  # else whoever read the output has seen enough
            _fail(error.strerror or str(error), UserError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


class Command(OneLineErrors, click.Command):
    """A single command with `OneLineErrors`."""


class Size(click.ParamType):
    """WIDTHxHEIGHT."""

    name = "WIDTHxHEIGHT"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        width, _, height = str(value).partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            self.fail(f"{value!r} is not like 640x480", param, ctx)
        return int(width), int(height)


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


@click.command(cls=Command, epilog=EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--source",
    required=True,
    help="An image, a folder (searched in depth) or a glob; - for images on stdin; a video; a camera "
    "(0 or /dev/video0), a stream (rtsp://, http://) or screen.",
)
@click.option("--size", type=Size(), help="Of the camera's or screen's pictures.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Frames a second of a camera."
)
@click.option("--pixel-format", help="Of a camera, as FFmpeg names it: mjpeg, yuyv422.")
@click.option("--limit", type=click.IntRange(1), help="End after so many pictures.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Labels to show.")
@click.option("--json", "form", flag_value="json", help="One JSON object per image and line.")
@click.option("--csv", "form", flag_value="csv", help="A line of comma-separated values per image.")
@click.option(
    "--threshold",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Score below which a picture is unknown.",
)
@click.option(
    "--smooth",
    default=0.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Average the scores of a video or camera over time.",
)
@click.option(
    "--margin",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="With --smooth: by how much another label must lead before it is shown.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: the runtime's).")
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.option(
    "--list-cameras",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_cameras,
    help="Show what --source can be on this machine, and end.",
)
@click.version_option(package_name="tfvit")
def main(
    model,
    source,
    size,
    rate,
    pixel_format,
    limit,
    top,
    form,
    threshold,
    smooth,
    margin,
    threads,
    strict,
):
    """Classify images with MODEL, a .tflite written by `tfvit convert`.

    Prints the most probable labels with their scores and the time each image took; a star marks what is
    in the image, where the model knows of several things in one.
    Unreadable images are skipped and named at the end. Of a camera, stream or screen it takes the newest
    frame, tries again for ever when it goes away, and ends with Ctrl-C.
    """
    from edge_demo import images, render, sources
    from edge_demo.classifier import Classifier
    from edge_demo.smoothing import UNKNOWN, Smoother, Smoothing

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a bar in a terminal that has no such character
    show, smoother = render.FORMATS[form or "bars"], Smoother(Smoothing(smooth, margin, threshold))
    if form == "csv":
        click.echo(",".join(render.CSV_COLUMNS))
    count, skipped, inference = 0, [], collections.deque(maxlen=RECENT)
    with sources.open_source(source, sources.Wanted(size, rate, pixel_format), say=_say) as opened:
        classifier = Classifier(model, threads)
        several = classifier.score_function == SIGMOID
        with _until_stopped() if opened.is_live else contextlib.nullcontext():
            for frame in itertools.islice(opened.frames, limit):
                count += 1
                try:
                    image = frame.image
                    image = images.decode(image, str(frame)) if isinstance(image, bytes) else image
                    scores, chosen = smoother(classifier.scores(image), frame.time)
                except UserError as error:
                    if strict or opened.count == 1:
                        raise
                    skipped.append(error)
                    continue
                result = render.Result(
                    frame,
                    classifier.ranked(scores),
                    UNKNOWN if chosen is None else classifier.labels[chosen],
                    dict(classifier.milliseconds),
                    1e3 * (time.monotonic() - frame.time) if opened.is_live else None,
                    several,
                )
                inference.append(result.milliseconds["inference"])
                click.echo(show(result, top))
    _summary(count, inference, skipped)


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block: the usual end of what would run for ever."""

    def stop(*_) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(count: int, inference: Collection[float], skipped: list[UserError]) -> None:
    """Totals and skipped files, on stderr so that results can be piped."""
    if count > 1 and inference:
        median = statistics.median_high(inference)
        _say(f"{count - len(skipped)} images, median inference {median:.1f} ms")
    if skipped:
        _say(f"skipped {len(skipped)} of {count} files:")
        for error in skipped:
            _say(f"  {error}")
    if not inference:
        raise UserError("none of the files is a readable image")
