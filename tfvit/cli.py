"""The `tfvit` command: a thin layer; TensorFlow is imported by the command that needs it."""

from __future__ import annotations

import click

from edge_demo.cli import OneLineErrors
from tfvit.commands import (
    checkpoints,
    compare,
    data_service,
    evaluate,
    export,
    fewshot,
    info,
    inspect,
    launch,
    pretrain,
    probe,
    scaling,
    train,
    vtab,
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


main.add_command(info.info)
main.add_command(checkpoints.create)
main.add_command(checkpoints.import_model)
main.add_command(checkpoints.export_model)
main.add_command(train.train)
main.add_command(pretrain.pretrain)
main.add_command(launch.launch)
main.add_command(export.convert)
main.add_command(evaluate.evaluate)
main.add_command(probe.probe)
main.add_command(fewshot.fewshot)
main.add_command(vtab.vtab)
main.add_command(scaling.scaling)
main.add_command(inspect.inspect)
main.add_command(compare.compare)
main.add_command(data_service.data_service)
