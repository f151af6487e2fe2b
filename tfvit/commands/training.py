"""What `tfvit train` and `tfvit pretrain` share: their options, and how a run is begun or gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.option_types import Number
from edge_demo.tables import table
from tfvit.architecture import POOLINGS
from tfvit.exit_codes import INTERRUPTED, Stopped
from tfvit.options import (
    PATH,
    ImageSize,
    Setting,
    cache_option,
    data_options,
    name_unreadable,
    need,
    seed_option,
    strategy_option,
)

DRY_RUN, BATCH = "dry_run.json", "batch.png"
ABOVE_0, FROM_0 = Number(0, min_open=True), Number(0)
OPTIONS = (
    data_options(required=False),
    click.option("--out", type=PATH, help="Folder of the run."),
    click.option(
        "--model",
        help="As vit-ti/16: mu, ti, s, b, l, h, g, G / patch; r50+vit-b/16; bit-r50x1.  "
        "[default: the recipe's]",
    ),
    click.option(
        "--image-size",
        type=ImageSize(),
        help="N or HEIGHTxWIDTH.  [default: the recipe's]",
    ),
    click.option(
        "--init",
        help="Checkpoint, run folder or whatever tfvit import reads, to start from; its model is the "
        "default.",
    ),
    click.option(
        "--recipe",
        help="A recipe by name; --print-recipe lists them.  [default: scratch, with --init edge-finetune; "
        "without labels the objective's name]",
    ),
    click.option(
        "--set",
        "settings",
        type=Setting(),
        multiple=True,
        help="Any field of the recipe, its augmentation or the architecture: beta_2=0.95, depth=6.",
    ),
    click.option("--print-recipe", is_flag=True, help="Show what the options come to, and end."),
    click.option("--dry-run", is_flag=True, help="Show what it would cost and one batch, and end."),
    click.option("--profile", is_flag=True, help="Trace steps 11 to 15 for TensorBoard."),
    click.option("--pooling", type=click.Choice(POOLINGS), help="What the head reads."),
    click.option("--epochs", type=ABOVE_0, help="Length; or --steps."),
    click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of --epochs."),
    click.option("--batch-size", type=click.IntRange(1), help="Global, over all devices."),
    click.option("--accumulate", type=click.IntRange(1), help="Parts a batch is computed in."),
    click.option("--lr", type=float, help="Peak rate."),
    click.option("--layer-decay", type=float, help="Rate of a block over that of the next."),
    click.option("--warmup", type=click.IntRange(0), help="Steps."),
    click.option("--weight-decay", type=FROM_0, help="Of kernels, times the rate."),
    click.option("--clip", type=FROM_0, help="Largest norm of the gradient; 0: none."),
    click.option("--frozen", help="Weights to leave alone, as 'embedding/*,block_[0-5]/*'."),
    click.option("--ema", type=FROM_0, help="Decay of averaged weights, as 0.999."),
    click.option("--dropout", type=float),
    click.option("--stochastic-depth", type=float, help="Drop rate of the last block."),
    click.option(
        "--crop-min-area",
        type=float,
        help="Smallest share of a picture the random crop keeps; 1 turns it off.",
    ),
    click.option(
        "--flip/--no-flip",
        default=None,
        help="Mirror every other picture (not for text).",
    ),
    click.option(
        "--resize",
        type=click.Choice(["squash", "crop"]),
        help="How any picture becomes the input.  [default: squash]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Of the computation; weights are float32.",
    ),
    click.option("--remat", is_flag=True, default=None, help="Less memory, a third more time."),
    strategy_option("One device, or a copy on each GPU."),
    cache_option,
    click.option(
        "--data-service",
        metavar="ADDRESS,...",
        help="Of tfvit data-service, to read and augment there.",
    ),
    click.option("--xla/--no-xla", default=None, help="Compile.  [default: where there is a GPU]"),
    click.option(
        "--eval-every",
        type=click.IntRange(1),
        help="Steps.  [default: an epoch or 1/20]",
    ),
    seed_option(default=None),
    click.option(
        "--checkpoint-every",
        type=FROM_0,
        metavar="SECONDS",
        help="Beside those at evaluations.",
    ),
    click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one."),
    click.option(
        "--strict",
        is_flag=True,
        help="Read every image first; an unreadable one is an error.",
    ),
)


def run_options(command: Callable) -> Callable:
    """Adds the options of a training run to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def run(
    ctx,
    *,
    out,
    resume,
    devices,
    checkpoint_every,
    cache,
    data_service,
    xla,
    strict,
    print_recipe,
    dry_run,
    profile,
    **options,
) -> None:
    """Begins or goes on with the run that a command's options describe: `run_options` and its own."""
    command = ctx.command.name
    need("train")
    from tfvit import runs
    from tfvit.setup_run import data_of, new_run

    if print_recipe:
        return _print_recipe(options)
    if out is None:
        raise UserError(f"needs --out, the folder of the run (see tfvit {command} --help)")
    stored = runs.read_settings(out)
    if stored is not None and not resume:
        raise UserError(f"{out}: already holds a run; add --resume or choose another --out")
    from tfvit.run import Run

    if stored is not None:
        with files.decoding(out / runs.RUN):
            begun = Run.from_json(stored)
        if begun.command != command:
            raise UserError(f"{out}: holds a run of tfvit {begun.command}; go on with that")
        _same_options(ctx, begun.options, options)
        options = begun.options
    elif not options["data"]:
        raise UserError(f"needs --data (see tfvit {command} --help)")
    from tfvit import strategies
    from tfvit.data import open_source, pipeline
    from tfvit.train import check
    from tfvit.train import train as run_training

    try:
        with strategies.opened(devices) as strategy:
            source = open_source(data_of(options), prefer="val", labelled=command == "train")
            if strict:
                for split in (source.train, source.eval):
                    pipeline.check_all(split)
            settings = None
            if devices.cluster.is_chief:
                settings = json.dumps(stored or new_run(options, source, out).to_json())
            run = Run.from_json(json.loads(strategies.from_chief(strategy, settings)))
            click.echo(
                f"{run.architecture.name} at {run.architecture.image_size[0]}x"
                f"{run.architecture.image_size[1]} on {source.name}: {source.train.size} training, "
                f"{source.eval.size} held out, {_learns(run, source)}, {run.recipe.steps} steps"
            )
            if dry_run:
                check(run, source, strategy.num_replicas_in_sync)
                return _dry_run(run, source, strategy.num_replicas_in_sync, out)
            unreadable = run_training(
                *(run, source, out),
                resume=resume,
                strategy=strategy,
                cluster=devices.cluster,
                checkpoint_every=checkpoint_every,
                cache=cache,
                services=data_service.split(",") if data_service else (),
                xla=xla,
                profile=profile,
            )
    except Stopped as stopped:
        click.echo(f"\n{stopped}", err=True)
        ctx.exit(stopped.exit_code)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; go on with: tfvit {command} --out {out} --resume", err=True)
        ctx.exit(INTERRUPTED)
    click.echo(f"best checkpoint {out / runs.BEST}, curves {out / runs.CURVES}")
    name_unreadable(unreadable)
    return None


def _learns(run, source) -> str:
    """What a run learns, in words."""
    how = run.recipe.pretraining
    return f"{how.objective} for {how.target}" if how else f"{len(source.labels)} classes"


def _dry_run(run, source, devices: int, out) -> None:
    """Prints what a run costs, and leaves that and a picture of its first batch in `out`."""
    from tfvit import dry_run, plots, watch
    from tfvit.data import pipeline
    from tfvit.objectives import labels, masked_modeling

    how = run.recipe
    cost = dry_run.of_run(run, source.train.size, devices)
    click.echo("\n".join(cost.lines()))
    batches = pipeline.train_batches(
        *(source.train, run.preprocess, min(how.batch_size, watch.MOST_PICTURES)),
        augmentation=how.augmentation,
        seed=how.seed,
        start_step=0,
        unreadable={},
    )
    batch = next(iter(batches))
    files.write_json(out / DRY_RUN, cost.to_json())
    if how.pretraining:
        shown = masked_modeling.as_trained_on(batch, run.architecture, how, 1)
        plots.picture_rows(shown, out / BATCH)
    else:
        plots.batch_grid(*labels.as_trained_on(batch, how, 1, source.labels), out / BATCH)
    click.echo(f"{out / DRY_RUN}, one batch: {out / BATCH}")


def _print_recipe(options: dict) -> None:
    """Prints the recipe that the options come to, or the table where none is named."""
    from tfvit import recipes
    from tfvit.data import open_source
    from tfvit.setup_run import data_of, recipe_of, row_of

    if not any(options[name] for name in ("recipe", "data", "init", "settings")):
        rows = [[name, row.model or "-", row.source] for name, row in recipes.RECIPES.items()]
        click.echo(table(rows, ["recipe", "model", "source"], left=3))
        return
    name, row = row_of(options)
    recipe, changes = recipe_of(options, row)
    if options["data"]:
        labelled = recipe.pretraining is None
        source = open_source(data_of(options), prefer="val", labelled=labelled)
        recipe = recipe.resolved(source.train.size)
    click.echo(f"{name}: {row.source}\n")
    if row.expected:
        click.echo(f"reaches there: {row.expected}\n")
    values = {"model": options["model"] or row.model, "image_size": row.image_size}
    values |= row.changes | changes | recipe.to_json()
    values |= values.pop("augmentation") | (values.pop("pretraining") or {})
    usual = recipes.Recipe().to_json() | recipes.Recipe().to_json()["augmentation"]
    rows = [
        [key, "none" if value is None else str(value), "" if usual.get(key, ...) == value else "*"]
        for key, value in values.items()
    ]
    click.echo(table(rows, ["field", "value", ""], left=3))
    click.echo("\n* not the usual value; change any with --set FIELD=VALUE")


def _same_options(ctx: click.Context, stored: dict, options: dict) -> None:
    """UserError if an option given beside --resume is not what the run was started with."""
    for name, value in options.items():
        given = ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if given and json.loads(json.dumps(value)) != stored.get(name):
            raise UserError(
                f"--{name.replace('_', '-')} {value} is not what the run began with "
                f"({stored.get(name)}); leave it out, or choose another --out"
            )
