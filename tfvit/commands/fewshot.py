"""`tfvit fewshot`: how far the features of models go with a few images per class."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.option_types import Counts
from edge_demo.tables import percent, table
from tfvit.options import PATH, data_options, few_shot_options, name_unreadable, need


@click.command()
@click.argument("models", type=PATH, nargs=-1, required=True, metavar="MODEL...")
@data_options()
@click.option(
    "--shots",
    type=Counts(),
    default="1,5,10,25",
    show_default=True,
    help="Training images of each class.",
)
@few_shot_options
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a .tflite.")
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--plot", type=PATH, help="Draw accuracy over shots to a PNG.")
def fewshot(models, shots, seeds, l2, batch_size, threads, json_file, plot, **options):
    """Measure the frozen features of each MODEL by ridge regression on a few images per class.

    MODEL is a checkpoint or run folder, or a .tflite of `tfvit convert --with-features`. All get the
    same draws of training images, and all held-out images as the test. Mean and standard deviation over
    the draws are told twice: with one l2 for all, as papers report it, and with the l2 chosen for
    each draw by leaving out its images in turn.

    \b
    Examples:
      tfvit fewshot dinov2 --data photos/
      tfvit fewshot runs/photos exported/int8.tflite --data photos/ --shots 5,10 --plot shots.png
    """
    shots = sorted(set(shots))
    need("train")
    from tfvit import plots
    from tfvit.data import open_source
    from tfvit.evaluate import features
    from tfvit.evaluate import fewshot as few
    from tfvit.setup_run import data_of

    source = open_source(data_of(options))
    readers = {str(model): features.of_path(model, batch_size, threads) for model in models}
    found = {m: few.measure(read, source, shots, seeds, l2) for m, read in readers.items()}
    header = ["model", "l2", *(f"{n} shot{'s' * (n > 1)}" for n in shots)]
    rows = []
    for model, result in found.items():
        for name, figures in ((f"{l2:g}", result.fixed), ("chosen", result.chosen)):
            if not figures:
                continue
            cells = {row.shots: percent(row.mean, row.std) for row in figures}
            rows.append([model, name, *(cells.get(n, "-") for n in shots)])
    click.echo(table(rows, header, left=2))
    images = result.images
    click.echo(
        f"\n{source.name}: top-1 on {images} images ({source.eval.name}), "
        f"{len(source.labels)} classes, mean and standard deviation of {seeds} draws"
    )
    if json_file:
        origin = {"data": source.name, "split": source.eval.name, "images": images}
        results = {model: result.to_json() for model, result in found.items()}
        files.write_json(
            json_file, {**origin, "models": results, "unreadable": sorted(result.unreadable)}
        )
    if plot:
        plots.few_shot(found, plot, source.name)
    name_unreadable(result.unreadable)
