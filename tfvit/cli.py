"""The `tfvit` command: a thin layer; TensorFlow is imported by the command that needs it."""

from __future__ import annotations

import click

from edge_demo.cli import OneLineErrors
from edge_demo.errors import UserError
from tfvit import files
from tfvit.commands import checkpoints, compare, export, launch, probe, train
from tfvit.options import (
    PATH,
    data_options,
    name_unreadable,
    need,
    percent,
    table,
)

CONTEXT = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}


class Group(OneLineErrors, click.Group):
    """A group of commands with `OneLineErrors`."""


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="tfvit")
def main():
    """Vision Transformers from a folder of photos to a device.

    \b
      tfvit train --data photos/ --model vit-ti/16 --image-size 96 --out runs/photos
      tfvit eval runs/photos --data photos/
      tfvit convert runs/photos --data photos/ --int8 --out exported/
      edge-demo exported/int8.tflite --source photo.jpg
    """


main.add_command(checkpoints.create)
main.add_command(checkpoints.import_model)
main.add_command(checkpoints.export_model)
main.add_command(train.train)
main.add_command(launch.launch)
main.add_command(export.convert)
main.add_command(probe.probe)
main.add_command(compare.compare)


@main.command("eval")
@click.argument("model", type=PATH)
@data_options()
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a .tflite.")
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--confusion", type=PATH, help="Draw the confusion of the classes to a PNG.")
@click.option("--strict", is_flag=True, help="An unreadable image is an error.")
def evaluate(model, batch_size, threads, json_file, confusion, strict, **options):
    """Measure MODEL, a checkpoint folder, a run folder or a .tflite, on labelled images.

    \b
    Examples:
      tfvit eval runs/photos --data photos/
      tfvit eval exported/int8.tflite --data photos/ --json int8.json --confusion int8.png
    """
    need("train")
    if not model.exists():
        raise UserError(f"{model}: no such checkpoint folder or .tflite")
    from edge_demo.classifier import Classifier
    from tfvit import checkpoint, plots
    from tfvit.data import open_source
    from tfvit.evaluate import predict, predict_tflite, score
    from tfvit.setup_run import data_of

    if model.is_file():
        labels, loaded = Classifier(model).labels, None
    else:
        loaded = checkpoint.load(checkpoint.find(model))
        labels = loaded.labels
    source = open_source(data_of(options))
    if loaded is None:
        predictions = predict_tflite(model, source, threads=threads)
    else:
        predictions = predict(loaded, source, batch_size)
    if strict and predictions.unreadable:
        raise UserError(next(iter(predictions.unreadable.values())))
    scores = score(predictions, labels)
    rows = [
        [label, str(c["images"]), percent(c["recall"]), percent(c["precision"])]
        for label, c in scores.per_class.items()
        if c["images"] or c["precision"] is not None
    ]
    click.echo(table(rows, ["class", "images", "recall", "precision"]))
    top5 = f", top-5 {percent(scores.top5)}" if scores.top5 is not None else ""
    click.echo(
        f"\n{model} on {source.name} ({source.eval.name}, {scores.images} images): "
        f"top-1 {percent(scores.top1)}{top5}, loss {scores.loss:.4f}"
    )
    if json_file:
        origin = {"model": str(model), "data": source.name, "split": source.eval.name}
        unreadable = sorted(predictions.unreadable)
        files.write_json(json_file, {**origin, **scores.to_json(), "unreadable": unreadable})
    if confusion:
        plots.confusion(scores.confusion, labels, confusion, f"{model}: {percent(scores.top1)}")
    name_unreadable(predictions.unreadable)


@main.command()
@click.argument("path", type=PATH)
@click.option("--json", "json_file", type=PATH, help="Write it to a file.")
def info(path, json_file):
    """Say what PATH holds: a checkpoint folder, a run folder or a .tflite.

    \b
    Examples:
      tfvit info runs/photos
      tfvit info exported/int8.tflite --json int8.json
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint folder or .tflite")
    from tfvit.info import describe, lines

    description = describe(path)
    click.echo("\n".join(lines(description)))
    if json_file:
        files.write_json(json_file, description)
