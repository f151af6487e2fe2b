"""`edge-demo classify`: what is in the pictures of a source."""

from __future__ import annotations

import collections
import contextlib
import signal
import statistics
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.options import runtime_options, source_options

RECENT = 1000  # inference times that the median is of
EXAMPLES = """\b
Examples:
  edge-demo int8.tflite --source photo.jpg
  edge-demo int8.tflite --source photos/ --json > results.jsonl
  edge-demo int8.tflite --source 'photos/**/*.png' --top 1
  edge-demo int8.tflite --source 0 --size 640x480
  edge-demo int8.tflite --source rtsp://10.0.0.8/stream --json
  edge-demo mobilenet.tflite --labels labels.txt --mean 127.5 --std 127.5 --source photo.jpg
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
    threshold,
    smooth,
    margin,
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
    """
    from edge_demo import outputs, sources
    from edge_demo.pipeline import Pipeline
    from edge_demo.smoothing import Smoothing

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a bar in a terminal that has no such character
    skipped: list[UserError] = []
    inference = collections.deque(maxlen=RECENT)
    count = 0
    with contextlib.ExitStack() as stack:
        wanted = sources.Wanted(size, rate, pixel_format)
        opened = stack.enter_context(sources.open_source(source, wanted, say=_say))
        classifier = load(model)
        pipeline = Pipeline(classifier, Smoothing(smooth, margin, threshold), region)
        takes = [stack.enter_context(outputs.lines(form or "bars", top))]
        if opened.is_live:
            classifier.warm_up()
            stack.enter_context(_until_stopped())
        skip = None if strict or opened.count == 1 else skipped.append
        for result in pipeline.results(opened, every, limit, skip):
            count += 1
            inference.append(result.milliseconds["inference"])
            for take in takes:
                take(result)
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
    if count + len(skipped) > 1 and inference:
        median = statistics.median_high(inference)
        _say(f"{count} images, median inference {median:.1f} ms")
    if skipped:
        _say(f"skipped {len(skipped)} of {count + len(skipped)} files:")
        for error in skipped:
            _say(f"  {error}")
    if not inference:
        raise UserError("none of the files is a readable image")
