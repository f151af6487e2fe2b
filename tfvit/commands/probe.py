"""`tfvit probe`: a linear classifier on frozen features."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.tables import percent
from tfvit.commands.checkpoints import must_be_new
from tfvit.options import PATH, data_options, name_unreadable, need, seed_option


@click.command()
@click.argument("model", type=PATH)
@data_options()
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@seed_option()
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--out", type=PATH, help="Checkpoint folder to write: MODEL with the head found.")
def probe(model, batch_size, seed, json_file, out, **options):
    """Measure how far the frozen features of MODEL, a checkpoint or run folder, go: a linear probe.

    Fits the head alone, by logistic regression on features that are computed once. What it leaves in
    --out is a good start for fine-tuning, too.

    \b
    Examples:
      tfvit probe dinov2 --data photos/
      tfvit probe dinov2 --data photos/ --out probed && tfvit train --init probed --data photos/ --out run
    """
    need("train")
    if out:
        must_be_new(out)
    from tfvit import checkpoint
    from tfvit.data import open_source
    from tfvit.evaluate import predict, score
    from tfvit.evaluate import probe as probes
    from tfvit.setup_run import data_of

    loaded = checkpoint.load(checkpoint.find(model))
    source = open_source(data_of(options))
    found = probes.fit(loaded, source, batch_size, seed)
    predictions = predict(found.model, source, batch_size)
    scores = score(predictions, found.model.labels)
    click.echo(
        f"{model} on {source.name}: linear probe on {source.train.size} images, "
        f"C {found.strength:g}: top-1 {percent(scores.top1)} of {scores.images} ({source.eval.name})"
    )
    name_unreadable(predictions.unreadable)
    if out:
        checkpoint.save(found.model, out)
        click.echo(f"checkpoint {out}")
    if json_file:
        origin = {"model": str(model), "data": source.name, "C": found.strength}
        files.write_json(json_file, origin | scores.to_json())
