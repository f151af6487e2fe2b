"""`tfvit train`: a run folder with the best and the last checkpoint."""

from __future__ import annotations

import click

from tfvit.commands import training
from tfvit.commands.training import FROM_0


@click.command()
@training.run_options
@click.option("--label-smoothing", type=float)
@click.option("--mixup", type=FROM_0, help="Alpha.")
@click.option("--cutmix", type=FROM_0, help="Alpha.")
@click.option("--teacher", help="Checkpoint to learn from beside the labels (distillation).")
@click.pass_context
def train(ctx, **options):
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
    training.run(ctx, **options)
