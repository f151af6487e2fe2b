"""`tfvit create` and `tfvit import`: checkpoint folders that no training of ours wrote."""

from __future__ import annotations

import click

from edge_demo.errors import UserError
from tfvit.options import PATH, ImageSize, Setting, need, seed_option


@click.command()
@click.argument("name")
@click.option("--classes", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--image-size", type=ImageSize(), default="224", show_default=True)
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Any field of the architecture, as pooling=gap.",
)
@seed_option()
@click.option("--out", type=PATH, required=True, help="Checkpoint folder to write.")
def create(name, classes, image_size, settings, seed, out):
    """Write an untrained checkpoint of the model NAME, for benchmarks and tests.

    \b
    Examples:
      tfvit create vit-b/16 --out b16
      tfvit create vit-ti/8 --classes 10 --image-size 64x96 --set depth=6 --out small
    """
    need("train")
    must_be_new(out)
    from tfvit import architecture

    arch = architecture.named(name, classes, image_size, **dict(settings))
    import tf_keras as keras

    from tfvit import checkpoint
    from tfvit.model import build

    keras.utils.set_random_seed(seed)
    model = build(arch)
    checkpoint.save(model, out)
    click.echo(f"{out}: {arch.name}, {model.count_params():,} parameters, untrained")


@click.command("import")
@click.argument("folder", type=PATH)
@click.option(
    "--image-size",
    type=ImageSize(),
    help="N or HEIGHTxWIDTH.  [default: of its preprocessing if the patch divides it, else its own]",
)
@click.option("--out", type=PATH, required=True, help="Checkpoint folder to write.")
def import_model(folder, image_size, out):
    """Turn FOLDER, a ViT or DINOv2 of Hugging Face, into a checkpoint to evaluate or to fine-tune.

    Reads config.json, preprocessor_config.json and model.safetensors.

    \b
    Examples:
      tfvit import dinov2-small --image-size 112 --out dinov2
      tfvit train --init dinov2 --data photos/ --epochs 3 --out runs/photos
    """
    need("train")
    must_be_new(out)
    from tfvit import checkpoint
    from tfvit.info import describe, lines
    from tfvit.interop import huggingface

    model, what_became = huggingface.load(folder, image_size)
    checkpoint.save(model, out)
    click.echo(f"from {folder}:")
    click.echo("\n".join(what_became.lines()))
    click.echo("\n".join(lines(describe(out))))


def must_be_new(out) -> None:
    """Raises UserError if there is something at `out` already."""
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
