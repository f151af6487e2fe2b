"""`tfvit info`: what a checkpoint or a file holds, and what a model costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import click

from edge_demo import files
from edge_demo.errors import UserError
from tfvit import architecture
from tfvit.options import PATH, ImageSizes, need

CLASSES = 1000  # of a model that is only named, as in the literature's tables


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--flops", is_flag=True, help="Count multiply-adds, parameters and memory, as a table."
)
@click.option(
    "--image-size",
    "image_sizes",
    type=ImageSizes(),
    help="With --flops: N or HEIGHTxWIDTH, or several with commas.  [default: the model's own, or 224]",
)
@click.option(
    "--throughput", is_flag=True, help="The same table, and images per second on this machine."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Of --throughput."
)
@click.option("--json", "json_file", type=PATH, help="Write it to a file.")
def info(models, flops, image_sizes, throughput, batch_size, json_file):
    """Say what MODEL holds, a checkpoint folder, a run folder or a .tflite; or what it costs.

    With --flops it may also be the name of a model, and there may be several.

    \b
    Examples:
      tfvit info runs/photos
      tfvit info exported/int8.tflite --json int8.json
      tfvit info vit-s/16 vit-b/16 bit-r50x1 --flops --image-size 224,384
      tfvit info runs/photos exported/int8.tflite --throughput
    """
    if flops or throughput:
        found = [
            cost
            for model in models
            for cost in _costs(model, image_sizes, throughput and batch_size)
        ]
        from tfvit.cost import report

        click.echo(report(found))
        values = [cost.to_json() for cost in found]
    else:
        if len(models) > 1 or image_sizes:
            raise UserError("several models, or --image-size: with --flops")
        path = Path(models[0])
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint folder or .tflite")
        from tfvit.info import describe, lines

        values = describe(path)
        click.echo("\n".join(lines(values)))
    if json_file:
        files.write_json(json_file, values)


def _costs(model: str, image_sizes: tuple | None, batch_size: int) -> Iterator:
    """The cost of a model at each size; with images per second if there is a batch size."""
    path = Path(model)
    if path.is_file():
        if image_sizes:
            raise UserError(f"{path}: has one image size; leave out --image-size")
        from tfvit import cost, tflite_graph

        found = tflite_graph.cost(path)
        speed = cost.tflite_throughput(path) if batch_size else None
        yield dataclasses.replace(found, images_per_second=speed)
        return
    need("train")
    from tfvit import checkpoint, cost
    from tfvit.model import build

    if path.exists():
        own = checkpoint.read_config(checkpoint.find(path))["architecture"]
    else:
        try:
            own = architecture.named(model, CLASSES, *(image_sizes or ())[:1])
        except UserError as error:
            raise UserError(f"{model}: no such file or folder; as a name: {error}") from None
    for size in image_sizes or [own.image_size]:
        arch = dataclasses.replace(own, image_size=size)
        found = dataclasses.replace(cost.of_architecture(arch), model=model)
        speed = cost.throughput(build(arch), batch_size) if batch_size else None
        yield dataclasses.replace(found, images_per_second=speed)
