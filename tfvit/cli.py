"""The `tfvit` command: a thin layer; TensorFlow is imported by the command that needs it."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.cli import OneLineErrors
from edge_demo.errors import UserError
from tfvit.commands import (
    checkpoints,
    compare,
    data_service,
    evaluate,
    export,
    fewshot,
    launch,
    probe,
    train,
)
from tfvit.options import (
    PATH,
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
main.add_command(evaluate.evaluate)
main.add_command(probe.probe)
main.add_command(fewshot.fewshot)
main.add_command(compare.compare)
main.add_command(data_service.data_service)


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
