"""`tfvit pretrain`: a backbone from pictures without labels."""

from __future__ import annotations

import click

from tfvit.commands import training
from tfvit.objectives import OBJECTIVES, TARGETS


@click.command()
@training.run_options
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    help="What is learned.  [default: the recipe's, else masked-patch]",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    help="What is predicted of a hidden patch.  [default: the recipe's]",
)
@click.option("--masked", type=float, help="Share of the patches that is predicted.")
@click.option("--decoder-width", type=click.IntRange(1), help="Of mae, a multiple of 32.")
@click.option("--decoder-depth", type=click.IntRange(1), help="Of mae.")
@click.pass_context
def pretrain(ctx, **options):
    """Train a Vision Transformer on pictures without labels, to tell what hidden patches of them hold.

    --data takes any folder of pictures as well, however they lie in it; a twentieth of them is held out, or
    --split. Labels are not used where there are any. The run folder is that of tfvit train, and its
    checkpoints are backbones, as imported ones are: for tfvit train --init, fewshot, probe and inspect.

    \b
    Examples:
      tfvit pretrain --data photos/ --image-size 96 --out runs/backbone
      tfvit pretrain --data photos/ --objective mae --out runs/backbone
      tfvit pretrain --data photos/ --model vit-b/16 --objective mae --out runs/backbone --dry-run
      tfvit train --data labelled/ --init runs/backbone --out runs/photos
      tfvit pretrain --data tfds:imagenet2012 --recipe paper-mae --out runs/mae
      tfvit pretrain --out runs/backbone --resume
    """
    training.run(ctx, **options)
