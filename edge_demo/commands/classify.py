"""`edge-demo classify`: what is in the pictures of a source."""

from __future__ import annotations

import collections
import contextlib
import functools
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_demo.commands.options import runtime_options, source_options
from edge_demo.errors import UserError
from edge_demo.option_types import Address, Number
from edge_demo.stopping import idle, until_stopped

if TYPE_CHECKING:
    from edge_demo.outputs.terminal import View
    from edge_demo.results import Result

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


@click.command(epilog=EXAMPLES, short_help="Say what is in the pictures of a source. The default.")
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
    type=Number(0, 1),
    help="Score below which a picture is unknown.",
)
@click.option(
    "--smooth",
    default=0.0,
    type=Number(0),
    metavar="SECONDS",
    help="Average the scores of a video or camera over time.",
)
@click.option(
    "--margin",
    default=0.1,
    show_default=True,
    type=Number(0, 1),
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
    type=Number(0, 1),
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
    if overlay and not (out or serve):
        raise click.UsageError("--overlay needs --out or --serve, where it is drawn")
    from edge_demo.outputs import sinks
    from edge_demo.pipeline import Pipeline
    from edge_demo.smoothing import Smoothing
    from edge_demo.sources.feeds import Wanted
    from edge_demo.sources.source import Source, open_source

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a bar in a terminal that has no such character
    view = _view(top) if form is None and not serve and sys.stdout.isatty() else None
    tally = Tally()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        opened = Source(iter(()))
        if source is not None:
            wanted, say = Wanted(size, rate, pixel_format), view.say if view else _say
            opened = enter(open_source(source, wanted, say=say))
        classifier = load(model)
        pipeline = Pipeline(classifier, Smoothing(smooth, margin, threshold), region)
        if opened.is_live or serve:
            classifier.warm_up()
            enter(until_stopped())
        takes = [tally.take]
        if view and opened.is_live:
            takes.append(view.take)
        elif form or not serve:
            takes.append(enter(sinks.lines(form or "bars", top)))
        if keep:
            takes.append(enter(sinks.kept(keep, keep_below, keep_most)))
        if out or serve:  # which a single picture should not wait for
            from edge_demo.outputs import annotate

            draw = functools.partial(annotate.draw, top=top, attention=overlay == "attention")
        if out:
            takes.append(enter(sinks.annotated(out, draw)))
        if serve:
            from edge_demo.server import live_page

            page = live_page.serve(
                *(serve, pipeline, top, draw),
                model=model.name,
                source=None if source is None else opened,
                unreadable=lambda: tally.unread,
                say=_say,
            )
            takes.append(enter(page))
        skip = tally.skip if opened.separate and not strict else None
        for result in pipeline.results(opened, every, limit, skip):
            for take in takes:
                take(result)
        if serve and not (limit and source):
            idle()
    tally.report()
    if not (tally.count or serve or opened.is_live):
        raise UserError("none of the files is a readable image")


class Tally:
    """How many pictures were read or not, and how long inference took; for the end."""

    def __init__(self) -> None:
        self.count = self.unread = 0
        self._inference: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._named: list[UserError] = []

    def take(self, result: Result) -> None:
        """Counts a result."""
        self.count += 1
        self._inference.append(result.milliseconds["inference"])

    def skip(self, error: UserError) -> None:
        """Counts a picture that could not be read."""
        self.unread += 1
        if self.unread <= NAMED:
            self._named.append(error)

    def report(self) -> None:
        """Says it on stderr, so that results can be piped; nothing of one picture."""
        total = self.count + self.unread
        if total > 1 and self.count:
            median = statistics.median_high(self._inference)
            _say(f"{self.count} images, median inference {median:.1f} ms")
        if self.unread:
            _say(f"skipped {self.unread} of {total} files:")
            for error in self._named:
                _say(f"  {error}")
            if self.unread > len(self._named):
                _say(f"  ... and {self.unread - len(self._named)} more")


def _view(top: int) -> View:
    from edge_demo.outputs.terminal import View

    return View(top)


def _say(line: str) -> None:
    click.echo(line, err=True)
