"""`tfvit create`, `tfvit import` and `tfvit export`: models that come from elsewhere or go there."""

from __future__ import annotations

import click

from edge_demo.errors import UserError
from edge_demo.tables import table
from tfvit import interop
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


def _list(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Prints the public checkpoints and ends the command."""
    if not wanted or ctx.resilient_parsing:
        return
    from tfvit.interop.public import PUBLIC

    rows = [[p.name, p.model, str(p.pixels), p.trained, p.licence] for p in PUBLIC]
    click.echo(table(rows, ["public name", "model", "pixels", "trained on", "licence"]))
    click.echo(
        "\n.npz below https://storage.googleapis.com/, all others at https://huggingface.co/: "
        "download one, then tfvit import it"
    )
    ctx.exit()


@click.command("import")
@click.argument("path", type=PATH)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Show which public checkpoints there are, and their licences.",
)
@click.option(
    "--image-size",
    type=ImageSize(),
    help="N or HEIGHTxWIDTH.  [default: of its preprocessing if the patch divides it, else its own]",
)
@click.option("--out", type=PATH, required=True, help="Checkpoint folder to write.")
def import_model(path, image_size, out):
    """Turn PATH, a model of another library, into a checkpoint to evaluate or to fine-tune.

    PATH is a file or folder: Google's .npz, a Hugging Face folder of a ViT, DeiT or DINOv2, or a
    .safetensors or folder of timm. Which it is shows in its content.

    \b
    Examples:
      tfvit import dinov2-small --image-size 112 --out dinov2
      tfvit import --list
      tfvit import ViT-B_16.npz --image-size 384 --out vit-b16
      tfvit import deit3_small_patch16_224.safetensors --out deit3
      tfvit train --init dinov2 --data photos/ --epochs 3 --out runs/photos
    """
    need("train")
    must_be_new(out)
    from tfvit import checkpoint
    from tfvit.info import describe, lines

    model, what_became = interop.load(path, image_size)
    checkpoint.save(model, out)
    click.echo(f"from {path}:")
    click.echo("\n".join(what_became.lines()))
    click.echo("\n".join(lines(describe(out))))


@click.command("export")
@click.argument("path", metavar="CHECKPOINT", type=PATH)
@click.option("--format", "format_", type=click.Choice(list(interop.FORMATS)), required=True)
@click.option("--out", type=PATH, required=True, help="File or folder to write.")
def export_model(path, format_, out):
    """Write CHECKPOINT, a checkpoint or run folder, as another library keeps it.

    The weights are the same, to the bit. What the library has no place for is an error.

    \b
    Examples:
      tfvit export runs/photos --format huggingface --out photos-hf
      tfvit export runs/photos --format timm --out photos-timm
      tfvit export runs/photos --format google-npz --out photos.npz
    """
    need("train")
    from tfvit import checkpoint

    interop.save(checkpoint.load(checkpoint.find(path)), format_, out)
    kind = interop.FORMATS[format_]
    click.echo(f"{out}: {kind.what}, without {kind.without}")


def must_be_new(out) -> None:
    """Raises UserError if there is something at `out` already."""
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
