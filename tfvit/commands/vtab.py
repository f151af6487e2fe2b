"""`tfvit vtab`: how well a checkpoint does on 19 tasks after fine-tuning on 1,000 images of each."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.option_types import Number
from edge_demo.tables import percent, table
from tfvit.options import (
    PATH,
    ImageSize,
    Setting,
    name_unreadable,
    need,
    seed_option,
    stoppable,
    strategy_option,
)


@click.command()
@click.argument("model", type=PATH, metavar="CHECKPOINT")
@click.option("--out", type=PATH, required=True, help="Folder for a run folder of each task.")
@click.option(
    "--tasks",
    metavar="NAME,...",
    help="Tasks, or groups of them: natural, specialised, structured.  [default: all 19]",
)
@click.option("--sweep", is_flag=True, help="Choose rate and steps for each task: five runs each.")
@click.option("--image-size", type=ImageSize(), help="N or HEIGHTxWIDTH.  [default: 384]")
@click.option("--steps", type=click.IntRange(1), help="Of each run.  [default: 2500]")
@click.option("--batch-size", type=click.IntRange(1), help="Over all devices.  [default: 512]")
@click.option("--lr", type=Number(0, min_open=True), help="Peak rate.  [default: 0.01]")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Any field of the recipe or the architecture: accumulate=8, dtype=bfloat16.",
)
@seed_option(default=None)
@strategy_option("One device, or a copy on each GPU.")
@click.option("--cache", help="Keep decoded pictures: 'memory', or a folder.")
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--plot", type=PATH, help="Draw a bar for each task to a PNG.")
@click.pass_context
def vtab(ctx, model, out, tasks, sweep, devices, cache, json_file, plot, **options):
    """Fine-tune CHECKPOINT on 1,000 images of each VTAB task, and measure it on the test images.

    All tasks are trained by one recipe, that of the ViT paper: finetune-vtab. With --sweep two rates and
    two lengths are tried for each on 800 images, the best on 200 others is taken, and the figure is of
    a run on all 1,000. TFDS downloads the data. The same command goes on where it was stopped.

    \b
    Examples:
      tfvit vtab runs/b16 --out vtab/b16
      tfvit vtab dinov2 --image-size 378 --out vtab/dinov2 --tasks natural,eurosat --plot bars.png
      tfvit vtab runs/b16 --out vtab/swept --sweep --set accumulate=8 --set dtype=bfloat16
    """
    if devices.cluster.count > 1:
        raise UserError("runs on one machine; share the tasks out with --tasks, into one --out")
    need("train")
    from tfvit import checkpoint, strategies
    from tfvit.data.vtab import TASKS, named
    from tfvit.evaluate.vtab import Protocol, measure

    names = named(tasks) if tasks else tuple(TASKS)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    protocol = Protocol(checkpoint.find(model), given, sweep)
    with stoppable(ctx, "go on with the same command"), strategies.opened(devices) as strategy:
        results = measure(protocol, names, out, strategy=strategy, cache=cache)
    if results.outcomes:
        click.echo("\n" + _table(results, sweep))
        click.echo(f"\n{model} on VTAB-1k: {_in_words(*results.mean())}")
    if json_file:
        origin = {"model": str(model), **protocol.settings()}
        files.write_json(json_file, {**origin, **results.to_json()})
    if plot and results.outcomes:
        _draw(results, plot, f"{model} on VTAB-1k: {_in_words(*results.mean())}")
    name_unreadable(results.unreadable)
    if results.failed:
        raise UserError(
            f"{len(results.failed)} of {len(names)} failed: {', '.join(results.failed)}"
        )


def _table(results, sweep: bool) -> str:
    """The tasks by groups, each group with its mean; with a sweep also what was chosen."""
    from tfvit.data.vtab import GROUPS, TASKS

    rows = []
    for group in GROUPS:
        found = [(n, o) for n, o in results.outcomes.items() if TASKS[n].group == group]
        for name, outcome in found:
            row = [group, name, percent(outcome.top1), str(outcome.images)]
            chosen = [f"{outcome.learning_rate:g}", str(outcome.steps), percent(outcome.validation)]
            rows.append(row + chosen * sweep)
        if found:
            mean, count, of = results.mean(group)
            rows.append(
                [group, f"mean of {_tasks(count, of)}", percent(mean), *[""] * (1 + 3 * sweep)]
            )
    return table(
        rows, ["group", "task", "top-1", "images", *["lr", "steps", "val200"] * sweep], left=2
    )


def _tasks(count: int, of: int) -> str:
    """How many were measured of how many."""
    return str(of) if count == of else f"{count} of {of}"


def _in_words(mean: float, count: int, of: int) -> str:
    words = f"top-1 {percent(mean)}, mean of {_tasks(count, of)} tasks"
    return words if count == of else f"{words} (not a VTAB score, which is of all)"


def _draw(results, path, title: str) -> None:
    from tfvit import plots
    from tfvit.data.vtab import GROUPS, TASKS

    groups = {
        group: {n: o.top1 for n, o in results.outcomes.items() if TASKS[n].group == group}
        for group in GROUPS
    }
    plots.grouped_bars({g: found for g, found in groups.items() if found}, path, title, "top-1, %")
