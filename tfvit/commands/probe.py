"""`tfvit probe`: a linear classifier on frozen features."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.tables import percent
from tfvit.commands.checkpoints import must_be_new
from tfvit.options import PATH, data_options, name_unreadable, need, seed_option


@click.command()
@click.argument("model", type=PATH)
@data_options()
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a .tflite.")
@seed_option()
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--out", type=PATH, help="Checkpoint folder to write: MODEL with the head found.")
def probe(model, batch_size, threads, seed, json_file, out, **options):
    """Measure how far the frozen features of MODEL go with all training images: a linear probe.

    MODEL is a checkpoint or run folder, or a .tflite of `tfvit convert --with-features`. Fits the head
    alone, by logistic regression on features that are computed once. What it leaves in --out is a good
    start for fine-tuning, too.

    \b
    Examples:
      tfvit probe dinov2 --data photos/
      tfvit probe exported/int8.tflite --data photos/
      tfvit probe dinov2 --data photos/ --out probed && tfvit train --init probed --data photos/ --out run
    """
    need("train")
    if out:
        must_be_new(out)
        if model.is_file():
            raise UserError(f"{model}: has a head for good; --out is for a checkpoint folder")
    from tfvit import checkpoint
    from tfvit.data import open_source
    from tfvit.evaluate import features, score
    from tfvit.evaluate import probe as probes
    from tfvit.setup_run import data_of

    if model.is_file():
        read = features.of_tflite(model, threads)
    else:
        loaded = checkpoint.load(checkpoint.find(model))
        read = features.of_model(loaded, batch_size)
    source = open_source(data_of(options))
    train, tested = read(features.to_learn_from(source)), read(source.eval)
    found = probes.fit(train, source.labels, seed)
    predictions = found.predictions(tested)
    scores = score(predictions, source.labels)
    click.echo(
        f"{model} on {source.name}: linear probe on {len(train.labels)} images, "
        f"C {found.strength:g}: top-1 {percent(scores.top1)} of {scores.images} ({source.eval.name})"
    )
    if found.at_end:
        click.echo(
            f"C {found.strength:g} is the last that is tried; another may be better", err=True
        )
    if not found.converged:
        click.echo(f"the fit has not converged, in {probes.STEPS} steps at most", err=True)
    unreadable = train.unreadable | tested.unreadable
    name_unreadable(unreadable)
    if out:
        checkpoint.save(probes.with_head(loaded, found, source.labels), out)
        click.echo(f"checkpoint {out}")
    if json_file:
        origin = {"model": str(model), "data": source.name, "split": source.eval.name}
        fitted = {
            **{"training_images": len(train.labels), "C": found.strength},
            **{"C_at_end": found.at_end, "converged": found.converged},
        }
        content = origin | fitted | scores.to_json() | {"unreadable": sorted(unreadable)}
        files.write_json(json_file, content)
