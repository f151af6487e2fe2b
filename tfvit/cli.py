"""The `tfvit` command: a thin layer; TensorFlow is imported by the command that needs it."""

from __future__ import annotations

import json

import click

from edge_demo.cli import OneLineErrors
from edge_demo.errors import UserError
from tfvit import files
from tfvit.architecture import POOLINGS
from tfvit.commands import checkpoints, evaluate, export, probe
from tfvit.options import (
    PATH,
    ImageSize,
    Setting,
    data_options,
    name_unreadable,
    need,
    seed_option,
    strategy_option,
)

CONTEXT = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}


class Group(OneLineErrors, click.Group):
    """A group of commands with `OneLineErrors`."""


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="tfvit")
def main():
    """Vision Transformers from a folder of photos to a device.

    \b
      tfvit train --data photos/ --model vit-ti/16 --image-size 96 --out runs/photos
      tfvit eval runs/photos --data photos/
      tfvit convert runs/photos --data photos/ --int8 --out exported/
      edge-demo exported/int8.tflite --source photo.jpg
    """


main.add_command(checkpoints.create)
main.add_command(checkpoints.import_model)
main.add_command(checkpoints.export_model)
main.add_command(export.convert)
main.add_command(evaluate.evaluate)
main.add_command(probe.probe)


@main.command()
@data_options(required=False)
@click.option("--out", type=PATH, required=True, help="Folder of the run.")
@click.option(
    "--model",
    help="As vit-ti/16: mu, ti, s, b, l, h, g, G / patch; r50+vit-b/16; bit-r50x1.  [default: vit-ti/16]",
)
@click.option("--image-size", type=ImageSize(), help="N or HEIGHTxWIDTH.  [default: 224]")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Any field of the architecture, as depth=6.",
)
@click.option("--pooling", type=click.Choice(POOLINGS), help="[default: cls]")
@click.option(
    "--init",
    help="Checkpoint, run folder or whatever tfvit import reads, to start from; its model is the default.",
)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=30, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of --epochs.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--lr", type=float, help="Peak rate.  [default: 1e-3, with --init 1e-4]")
@click.option("--warmup", type=click.IntRange(0), help="Steps.  [default: a tenth of all]")
@click.option("--weight-decay", type=click.FloatRange(0), default=0.05, show_default=True)
@click.option("--clip", type=click.FloatRange(0), default=1.0, show_default=True, help="0: none.")
@click.option("--label-smoothing", type=float, default=0.1, show_default=True)
@click.option("--dropout", type=float, default=0.0, show_default=True)
@click.option("--stochastic-depth", type=float, default=0.0, show_default=True)
@click.option(
    "--crop-min-area",
    type=float,
    default=0.2,
    show_default=True,
    help="Smallest share of a picture the random crop keeps; 1 turns it off.",
)
@click.option("--flip/--no-flip", default=True, help="Mirror every other picture (not for text).")
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop"]),
    help="How any picture becomes the input.  [default: squash]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the computation; weights are float32.",
)
@strategy_option("One device, or a copy on each GPU.")
@click.option("--xla/--no-xla", default=None, help="Compile.  [default: where there is a GPU]")
@click.option("--eval-every", type=click.IntRange(1), help="Steps.  [default: an epoch or 1/20]")
@seed_option()
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@click.option(
    "--strict", is_flag=True, help="Read every image first; an unreadable one is an error."
)
@click.pass_context
def train(ctx, out, resume, strategy, xla, strict, **options):
    """Train a Vision Transformer and leave a run folder with its best and last checkpoint.

    \b
    Examples:
      tfvit train --data photos/ --image-size 96 --epochs 30 --out runs/photos
      tfvit train --data photos/ --init runs/photos --image-size 160 --epochs 5 --out runs/photos160
      tfvit train --data tfds:cifar10 --model vit-ti/4 --image-size 32 --out runs/cifar10
      tfvit train --out runs/photos --resume
    """
    need("train")
    from tfvit import runs
    from tfvit.setup_run import data_of, new_run

    stored = runs.read_settings(out)
    if stored and not resume:
        raise UserError(f"{out}: already holds a run; add --resume or choose another --out")
    if stored:
        _same_options(ctx, stored["options"], options)
        options = stored["options"]
    elif not options["data"]:
        raise UserError("needs --data (see tfvit train --help)")
    from tfvit.data import open_source, pipeline
    from tfvit.train import Run
    from tfvit.train import train as run_training

    source = open_source(data_of(options), prefer="val")
    if strict:
        for split in (source.train, source.eval):
            pipeline.check_all(split)
    run = Run.from_json(stored) if stored else new_run(options, source, out)
    click.echo(
        f"{run.architecture.name} at {run.architecture.image_size[0]}x"
        f"{run.architecture.image_size[1]} on {source.name}: {source.train.size} training, "
        f"{source.eval.size} held out, {len(source.labels)} classes, {run.recipe.steps} steps"
    )
    try:
        unreadable = run_training(run, source, out, resume=resume, strategy=strategy, xla=xla)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; go on with: tfvit train --out {out} --resume", err=True)
        ctx.exit(130)
    click.echo(f"best checkpoint {out / runs.BEST}, curves {out / runs.CURVES}")
    name_unreadable(unreadable)


def _same_options(ctx: click.Context, stored: dict, options: dict) -> None:
    """UserError if an option given beside --resume is not what the run was started with."""
    for name, value in options.items():
        given = ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if given and json.loads(json.dumps(value)) != stored.get(name):
            raise UserError(
                f"--{name.replace('_', '-')} {value} is not what the run began with "
                f"({stored.get(name)}); leave it out, or choose another --out"
            )


@main.command()
@click.argument("path", type=PATH)
@click.option("--json", "json_file", type=PATH, help="Write it to a file.")
def info(path, json_file):
    """Say what PATH holds: a checkpoint folder, a run folder or a .tflite.

    \b
    Examples:
      tfvit info runs/photos
      tfvit info exported/int8.tflite --json int8.json
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint folder or .tflite")
    from tfvit.info import describe, lines

    description = describe(path)
    click.echo("\n".join(lines(description)))
    if json_file:
        files.write_json(json_file, description)
