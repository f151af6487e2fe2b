"""`edge-demo enroll`: a new class, or a better one, from a few pictures."""

from __future__ import annotations

from pathlib import Path

import click

from edge_demo.commands.options import runtime_options, source_options
from edge_demo.errors import UserError

SUFFIX = ".enrolled.tflite"
EXAMPLES = """\b
Examples:
  edge-demo enroll int8.tflite --label mug --source photos/mug/
  edge-demo enroll int8.enrolled.tflite --label plate --source 0 --every 15
  edge-demo enroll int8.enrolled.tflite --forget mug
  edge-demo int8.enrolled.tflite --source photo.jpg
"""


@click.command(epilog=EXAMPLES, short_help="Add a class, or correct one, by a few pictures.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--label", help="Of what is in all pictures of the source; new, or known already.")
@source_options
@click.option("--forget", metavar="LABEL", help="Take a class out; needs no source.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"[default: MODEL itself if it is a *{SUFFIX}, else beside it as one]",
)
@runtime_options
def enroll(model, label, source, size, rate, pixel_format, region, every, limit, forget, out, load):
    """Add a class to MODEL, or correct one, by the pictures of a source.

    MODEL is a .tflite of `tfvit convert --with-features`. Ten pictures are a good number; of a camera the
    next ten are taken. The copy that is written has the same graph; its last layer is replaced: a picture
    is taken for the class whose examples its features are nearest to. Pictures of a known class correct
    it, and what was known of it counts for ten of them.
    """
    from edge_demo import enrolment, prototypes
    from edge_demo.pipeline import Pipeline
    from edge_demo.scores import SIGMOID
    from edge_demo.sources.feeds import Wanted
    from edge_demo.sources.source import open_source
    from edge_demo.tflite import metadata

    if (forget is None) == (label is None) or (label is None) != (source is None):
        raise UserError("needs --label and --source, or --forget alone")
    label = None if label is None else prototypes.check(label)
    inside = metadata.read_with_features(model)
    if inside.scores == SIGMOID:
        raise UserError(f"{model}: gives several labels a picture; only one each can be enrolled")
    out = out or (model if model.name.endswith(SUFFIX) else model.with_suffix(SUFFIX))
    if out.exists() and not out.samefile(model):
        raise UserError(f"{out}: is there already; add to it, or name another --out")
    known = inside.prototypes
    if forget is not None:
        if known is None:
            raise UserError(f"{model}: has no prototypes of its classes; there is none to forget")
        forget = forget.strip()
        found, done = known.forgotten(forget), f"forgot {forget}"
    else:
        wanted, skipped = Wanted(size, rate, pixel_format), []
        with open_source(source, wanted, say=_say) as opened:
            pipeline = Pipeline(load(model), region=region)
            skip = skipped.append if opened.separate else None
            examples = enrolment.features(pipeline, opened, every, limit, skip)
        for error in skipped:
            _say(f"skipped {error}")
        if not len(examples):
            raise UserError(f"{source}: no readable image")
        if known is None:
            known = prototypes.none(examples.shape[1])
            _say(f"{model}: was exported without --data, so only what is enrolled is known")
        found = known.enrolled(label, examples)
        what = "corrected" if label in known.labels else "added"
        done = f"{what} {label} from {len(examples)} pictures"
        apart = enrolment.separation(found, label, examples)
        if apart:
            done += (
                f"; each left out, {apart.right} are nearest to it: cosine {apart.own:.2f}, "
                f"and {apart.other:.2f} to {apart.nearest}"
            )
    metadata.describe(model, out, prototypes=found, accuracy=None)  # that of the former last layer
    click.echo(f"{done}\n{out}: {len(found.labels)} classes")


def _say(line: str) -> None:
    click.echo(line, err=True)
