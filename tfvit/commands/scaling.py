"""`tfvit scaling`: what more data and more compute bring, for models of several families."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.option_types import Number
from edge_demo.tables import percent, scaled, table
from tfvit.exit_codes import Diverged
from tfvit.options import (
    PATH,
    ImageSize,
    Names,
    Setting,
    Shares,
    cache_option,
    data_options,
    few_shot_options,
    name_unreadable,
    need,
    stoppable,
    strategy_option,
)

PER_HOUR = 3600 * 1e12 / 1e18  # exaFLOPs at 1 TFLOP/s


@click.command()
@click.option("--models", type=Names(), required=True, help="As tfvit train --model.")
@data_options(fraction=False)
@click.option(
    "--fractions",
    type=Shares(),
    default="0.1,0.3,1",
    show_default=True,
    help="Shares of the training images, of each class the same; the smaller inside the larger.",
)
@click.option("--out", type=PATH, required=True, help="Folder of the study: OUT/MODEL/FRACTION.")
@click.option("--epochs", type=Number(0, min_open=True), help="Length; or --steps.")
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of --epochs.")
@click.option(
    "--same",
    type=click.Choice(["steps", "epochs"]),
    default="steps",
    show_default=True,
    help="What all fractions have alike: with steps, --epochs is of all the data.",
)
@click.option("--image-size", type=ImageSize(), help="N or HEIGHTxWIDTH.  [default: the recipe's]")
@click.option("--recipe", help="Of tfvit train --print-recipe.  [default: scratch]")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Any field of the recipe or the architectures: batch_size=128, dtype=bfloat16.",
)
@click.option("--shots", type=click.IntRange(1), default=5, show_default=True)
@few_shot_options
@click.option(
    "--fewshot-data",
    help="Another set for few-shot accuracy; --split holds out of it, too.  [default: --data]",
)
@strategy_option("One device, or a copy on each GPU.")
@cache_option
@click.option("--dry-run", is_flag=True, help="Show the grid and what it would cost, and end.")
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.pass_context
def scaling(
    ctx,
    models,
    fractions,
    out,
    same,
    shots,
    seeds,
    l2,
    fewshot_data,
    devices,
    cache,
    dry_run,
    json_file,
    **options,
):
    """Train every model on every fraction of the data, measure them and draw how they scale.

    Each is a run folder as of `tfvit train`. Its best checkpoint is measured on the held-out images, and
    by its features on a few images per class. OUT gets three pictures, drawn again after each run:
    held-out and few-shot accuracy over the number of images, and both over the compute of training.
    The same command goes on where it was stopped; with more models or fractions it adds these.

    \b
    Examples:
      tfvit scaling --data photos/ --models vit-ti/32,vit-ti/16,r26+vit-s/32,bit-r50x1 --image-size 64 \\
          --epochs 20 --out study
      tfvit scaling --data photos/ --models vit-ti/16,vit-s/16 --fractions 0.01,0.1,1 --out study --dry-run
    """
    if devices.cluster.count > 1:
        raise UserError("runs on one machine; share the models out with --models, into one --out")
    need("train")
    import dataclasses

    from tfvit import scaling as study
    from tfvit import strategies
    from tfvit.data import DataOptions, open_source
    from tfvit.data.source import in_one_part
    from tfvit.evaluate import fewshot
    from tfvit.setup_run import data_of

    data = few = data_of(options)
    if fewshot_data is not None:
        few = DataOptions(fewshot_data)
        if in_one_part(few):
            few = DataOptions(few.data, data.holdout)
            if not in_one_part(data):
                options["holdout"] = None
    protocol = study.Protocol(few, shots, seeds, l2)
    cells = study.grid(options, models, fractions, out, same)
    fewshot.check(open_source(few), shots)
    if dry_run:
        return _dry_run(cells)
    unreadable, diverged = {}, []
    with stoppable(ctx, "the same command goes on"), strategies.opened(devices) as strategy:
        for number, cell in enumerate(cells, 1):
            done = ": already measured" if study.measured(cell, protocol) else ""
            click.echo(f"[{number}/{len(cells)}] {cell.folder}{done}")
            if done:
                continue
            try:
                unreadable |= study.finish(cell, protocol, strategy=strategy, cache=cache)
            except Diverged as error:
                click.echo(str(error))
                diverged.append(str(cell.folder))
                continue
            study.draw(study.rows(cells, protocol), out, data.data, protocol)
    found = study.rows(cells, protocol)
    click.echo("\n" + _table(found, protocol.shots))
    click.echo(
        f"\nheld-out images of {data.data}; {shots} shots of {few.data}, mean and standard "
        f"deviation of {seeds} draws"
    )
    if any(row["measured"] for row in found):
        click.echo(f"pictures {', '.join(map(str, study.draw(found, out, data.data, protocol)))}")
    if json_file:
        files.write_json(json_file, {"protocol": dataclasses.asdict(protocol), "cells": found})
    name_unreadable(unreadable)
    if diverged:
        raise Diverged(f"the loss ran away in {', '.join(diverged)}; try a lower learning_rate")


def _table(rows: list[dict], shots: int) -> str:
    """The rows of a study for people; what is not measured as "-"."""
    cells = []
    for row in rows:
        found = row["measured"] or {"held_out": {}, "few_shot": {}}
        few = found["few_shot"]
        cells.append(
            [
                row["model"],
                str(row["images"]),
                f"{row['epochs']:.1f}",
                f"{row['exaflops']:.3g}",
                percent(found["held_out"].get("top1")),
                percent(few.get("mean"), few.get("std")),
            ]
        )
    header = ["model", "images", "epochs", "exaFLOPs", "held-out top-1"]
    return table(cells, [*header, f"{shots} shot{'s' * (shots > 1)}"])


def _dry_run(cells: list) -> None:
    """Prints what the runs of a study would cost."""
    from tfvit import dry_run

    memory = {}
    lines = []
    for cell in cells:
        row, arch = cell.to_json(), cell.run.architecture
        if arch not in memory:
            memory[arch] = dry_run.of_run(cell.run, cell.images).memory["total"]
        lines.append(
            [
                row["model"],
                str(row["images"]),
                str(row["steps"]),
                f"{row['epochs']:.1f}",
                f"{row['exaflops']:.3g}",
                f"{scaled(memory[arch])}B",
            ]
        )
    click.echo(table(lines, ["model", "images", "steps", "epochs", "exaFLOPs", "memory"]))
    total = sum(cell.to_json()["exaflops"] for cell in cells)
    click.echo(
        f"\n{len(cells)} runs, {total:.3g} exaFLOPs: {total / PER_HOUR:.3g} hours at 1 TFLOP/s"
    )
