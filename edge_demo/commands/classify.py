"""`edge-demo classify`: what is in the pictures of a source."""

from __future__ import annotations

import collections
import contextlib
import functools
import signal
import statistics
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.option_types import Address
from edge_demo.options import runtime_options, source_options

RECENT = 1000  # inference times that the median is of
NAMED = 100  # unreadable files that are named at the end
EXAMPLES = """\b
Examples:
  edge-demo int8.tflite --source photo.jpg
  edge-demo int8.tflite --source photos/ --json > results.jsonl
  edge-demo int8.tflite --source 'photos/**/*.png' --top 1
  edge-demo int8.tflite --source 0 --size 640x480
  edge-demo int8.tflite --source rtsp://10.0.0.8/stream --json
  edge-demo int8.tflite --source 0 --keep unsure/ --keep-below 0.6
  edge-demo int8.tflite --source clip.mp4 --out annotated.mp4
  edge-demo int8.tflite --source 0 --serve 8080
  edge-demo mobilenet.tflite --labels labels.txt --mean 127.5 --std 127.5 --source photo.jpg
  edge-demo int8.tflite --weight-cache weights/ --source 0
  edge-demo int8.tflite --delegate libdelegate.so --delegate-option device=0 --source 0
  ffmpeg ... -f image2pipe - | edge-demo int8.tflite --source -
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@source_options
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Labels to show.")
@click.option("--json", "form", flag_value="json", help="One JSON object per image and line.")
@click.option("--csv", "form", flag_value="csv", help="A line of comma-separated values per image.")
@click.option(
    "--serve",
    type=Address(),
    help="Show a live page at this address, of this machine alone unless HOST says otherwise.",
)
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
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER|VIDEO",
    help="Write annotated pictures: JPEG files, or a video if it ends in .mp4, .mkv, .mov or .webm.",
)
@click.option(
    "--overlay",
    type=click.Choice(["attention"]),
    help="Draw where the model looked on the annotated pictures.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep pictures that the model is not sure of, to be labelled later; one a second at most.",
)
@click.option(
    "--keep-below",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Score that is not sure.",
)
@click.option(
    "--keep-most",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Files to keep; the oldest go.",
)
@runtime_options
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
def classify(
    model,
    source,
    size,
    rate,
    pixel_format,
    region,
    every,
    limit,
    top,
    form,
    serve,
    threshold,
    smooth,
    margin,
    out,
    overlay,
    keep,
    keep_below,
    keep_most,
    strict,
    load,
):
    """Classify images with MODEL, a .tflite of `tfvit convert`, or from elsewhere.

    One from elsewhere says by TFLite Metadata inside it, or you say, what its --labels, --mean and
    --std are.

    Prints the most probable labels with their scores and the time each image took; a star marks what is
    in the image, where the model knows of several things in one.
    Unreadable images are skipped and named at the end. Of a camera, stream or screen it takes the newest
    frame, tries again for ever when it goes away, and ends with Ctrl-C.
    With --serve it prints nothing unless --json or --csv is given, takes pictures that are posted to it, too,
    and goes on until Ctrl-C or --limit.
    """
    if source is None and not serve:
        raise click.UsageError("Missing option '--source'.")
    from edge_demo import annotate, outputs, server, sources
    from edge_demo.pipeline import Pipeline
    from edge_demo.smoothing import Smoothing
    from edge_demo.terminal import View

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a bar in a terminal that has no such character
    view = View(top) if form is None and sys.stdout.isatty() else None
    draw = functools.partial(annotate.draw, top=top, attention=overlay == "attention")
    count, inference = 0, collections.deque(maxlen=RECENT)
    unread, skipped = 0, []

    def skip(error: UserError) -> None:
        nonlocal unread
        unread += 1
        if unread <= NAMED:
            skipped.append(error)

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        wanted = sources.Wanted(size, rate, pixel_format)
        opened = sources.Source(iter(()))
        if source is not None:
            say = view.say if view else _say
            opened = enter(sources.open_source(source, wanted, say=say))
        classifier = load(model)
        pipeline = Pipeline(classifier, Smoothing(smooth, margin, threshold), region)
        if opened.is_live or serve:
            classifier.warm_up()
            enter(_until_stopped())
        takes = []
        if view and opened.is_live and not serve:
            takes.append(view.take)
        elif form or not serve:
            takes.append(enter(outputs.lines(form or "bars", top)))
        if out:
            takes.append(enter(outputs.annotated(out, draw)))
        if keep:
            takes.append(enter(outputs.kept(keep, keep_below, keep_most)))
        if serve:
            page = server.serve(
                serve,
                pipeline,
                top,
                draw,
                model=model.name,
                source=None if source is None else opened,
                unreadable=lambda: unread,
                say=_say,
            )
            takes.append(enter(page))
        separate = opened.separate and not strict
        for result in pipeline.results(opened, every, limit, skip if separate else None):
            count += 1
            inference.append(result.milliseconds["inference"])
            for take in takes:
                take(result)
        while serve and not (limit and source):
            time.sleep(3600)
    if source is not None:
        _summary(count, inference, unread, skipped)


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


def _summary(count: int, inference: Collection[float], unread: int, named: list[UserError]) -> None:
    """Totals and skipped files, on stderr so that results can be piped."""
    if count + unread > 1 and inference:
        _say(f"{count} images, median inference {statistics.median_high(inference):.1f} ms")
    if unread:
        _say(f"skipped {unread} of {count + unread} files:")
        for error in named:
            _say(f"  {error}")
        if unread > len(named):
            _say(f"  ... and {unread - len(named)} more")
    if not inference:
        raise UserError("none of the files is a readable image")
