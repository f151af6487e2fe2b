"""`tfvit launch`: several workers on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from edge_demo.errors import UserError

RUNS = ("train", "pretrain")
CONTEXT = {"ignore_unknown_options": True}


@click.command(context_settings=CONTEXT)
@click.option("--workers", type=click.IntRange(1), required=True, help="Processes to start.")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="How often all are started again when one is lost.",
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def launch(ctx, workers, retries, arguments):
    """Run `tfvit train ...` or `pretrain` as several workers here, again with --resume if one is lost.

    What the chief says is shown; the others write to workers/N.log in the run's folder. Ctrl-C and
    SIGTERM reach all of them, which save and stop.

    \b
    Examples:
      tfvit launch --workers 2 -- train --data photos/ --out runs/photos
    """
    from tfvit import launch as launching

    if arguments[0] not in RUNS:
        raise UserError(
            f"launch runs {' or '.join(RUNS)}, not {arguments[0]}: tfvit launch --workers 2 -- train ..."
        )
    ctx.exit(
        launching.launch(
            arguments, workers, retries, _out(arguments), lambda line: click.echo(line, err=True)
        )
    )


def _out(arguments: tuple[str, ...]) -> Path:
    """The folder that --out names among the arguments."""
    for argument, value in zip(arguments, (*arguments[1:], "")):
        name, separator, joined = argument.partition("=")
        if name == "--out" and (joined if separator else value):
            return Path(joined if separator else value)
    raise UserError(f"{arguments[0]} needs --out: the folder of the run")
