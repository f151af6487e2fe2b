"""`tfvit train`: a run folder with the best and the last checkpoint."""

from __future__ import annotations

import click

from tfvit.commands import training
from tfvit.commands.training import FROM_0

DRY_RUN, BATCH = "dry_run.json", "batch.png"


@click.command()
@training.run_options
@click.option("--dry-run", is_flag=True, help="Show what it would cost and one batch, and end.")
@click.option("--label-smoothing", type=float)
@click.option("--mixup", type=FROM_0, help="Alpha.")
@click.option("--cutmix", type=FROM_0, help="Alpha.")
@click.option("--teacher", help="Checkpoint to learn from beside the labels (distillation).")
@click.pass_context
def train(ctx, dry_run, **options):
    """Train a Vision Transformer and leave a run folder with its best and last checkpoint.

    \b
    Examples:
      tfvit train --data photos/ --image-size 96 --epochs 30 --out runs/photos
      tfvit train --data photos/ --init dinov2 --out runs/photos
      tfvit train --data tfds:imagenet2012 --recipe deit --model vit-ti/16 --out runs/deit-ti
      tfvit train --recipe deit --set epochs=100 --print-recipe
      tfvit train --data photos/ --model vit-b/16 --batch-size 256 --out runs/b16 --dry-run
      tfvit train --out runs/photos --resume
    """
    training.run(ctx, instead=_dry_run if dry_run else None, **options)


def _dry_run(run, source, devices: int, out) -> None:
    """Prints what a run costs, and leaves that and a picture of its first batch in `out`."""
    from edge_demo.files import write_json
    from tfvit import dry_run as dry
    from tfvit import plots, watch
    from tfvit.data import pipeline
    from tfvit.objectives.labels import as_trained_on

    how = run.recipe
    cost = dry.of_run(run, source.train.size, devices)
    click.echo("\n".join(cost.lines()))
    batches = pipeline.train_batches(
        *(source.train, run.preprocess, min(how.batch_size, watch.MOST_PICTURES)),
        augmentation=how.augmentation,
        seed=how.seed,
        start_step=0,
        unreadable={},
    )
    shown = as_trained_on(next(iter(batches)), how, 1, source.labels)
    write_json(out / DRY_RUN, cost.to_json())
    plots.batch_grid(*shown, out / BATCH)
    click.echo(f"{out / DRY_RUN}, one batch: {out / BATCH}")
