"""`tfvit eval`: what a model scores on labelled images."""

from __future__ import annotations

import dataclasses

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.tables import percent, table
from tfvit import figures
from tfvit.commands import robustness
from tfvit.options import PATH, data_options, name_unreadable, need, seed_option


@click.command("eval")
@click.argument("models", type=PATH, nargs=-1, required=True, metavar="MODEL...")
@data_options(fraction=False)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a .tflite.")
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
@click.option("--confusion", type=PATH, help="Draw the confusion of the classes to a PNG.")
@click.option(
    "--reliability", type=PATH, help="Draw accuracy over confidence, by bins of it, to a PNG."
)
@click.option(
    "--corruptions",
    metavar="KIND,...",
    help="Compare models on corrupted pictures: some of ImageNet-C's 15 kinds, or 'all', at 5 levels.",
)
@click.option(
    "--corruption-images", type=click.IntRange(1), help="Take so many, spread over the split."
)
@seed_option()
@click.option(
    "--real-labels",
    type=PATH,
    metavar="real.json",
    help="ImageNet's validation set by the ReaL labels (arXiv 2006.07159), too.",
)
@click.option("--strict", is_flag=True, help="An unreadable image is an error.")
def evaluate(
    models,
    batch_size,
    threads,
    json_file,
    confusion,
    reliability,
    corruptions,
    corruption_images,
    seed,
    real_labels,
    strict,
    **options,
):
    """Measure MODEL, a checkpoint folder, a run folder or a .tflite, on labelled images.

    With --corruptions several models are measured side by side, on the same pixels; --seed is of these.

    \b
    Examples:
      tfvit eval runs/photos --data photos/
      tfvit eval exported/int8.tflite --data photos/ --json int8.json --confusion int8.png
      tfvit eval exported/float32.tflite exported/int8.tflite --data photos/ --corruptions all
      tfvit eval runs/photos --data photos/ --corruptions fog,snow --corruption-images 200
    """
    if corruptions is None and (len(models) > 1 or corruption_images):
        raise UserError("several models, and --corruption-images, are for --corruptions")
    if corruptions is not None and (confusion or reliability or real_labels):
        raise UserError("--confusion, --reliability and --real-labels do not go with --corruptions")
    for model in models:
        if not model.exists():
            raise UserError(f"{model}: no such checkpoint folder or .tflite")
    need("train")
    from edge_demo.classifier import Classifier
    from tfvit import checkpoint, plots
    from tfvit.data import open_source
    from tfvit.evaluate import predict, predict_tflite, real, score
    from tfvit.evaluate.classification import within
    from tfvit.setup_run import data_of

    if corruptions is not None:
        robustness.compare(
            models,
            open_source(data_of(options)),
            kinds=corruptions,
            images=corruption_images,
            **{"seed": seed, "batch_size": batch_size, "threads": threads},
            **{"strict": strict, "json_file": json_file},
        )
        return
    (model,) = models
    source = open_source(data_of(options))
    if reliability and source.multi_label:
        raise UserError(f"{source.name}: has several labels a picture; --reliability is for one")
    if real_labels:
        real.check(source)
        deserved = real.read(real_labels)
    if model.is_file():
        labels = Classifier(model).labels
        predictions = predict_tflite(model, source, threads=threads)
    else:
        loaded = checkpoint.load(checkpoint.find(model))
        labels, predictions = loaded.labels, predict(loaded, source, batch_size)
    if strict and predictions.unreadable:
        raise UserError(next(iter(predictions.unreadable.values())))
    reassessed = real.score(predictions, labels, source, deserved) if real_labels else None
    if not source.multi_label:
        predictions, labels = within(predictions, labels, source)
    scores = score(predictions, labels)
    in_words = _in_words(scores.headline())
    if not source.multi_label:
        in_words += f", calibration error {percent(scores.ece)}"
    if reassessed:
        in_words += f", ReaL {percent(reassessed.top1)} of {reassessed.images}"
    click.echo(_per_class(scores.per_class))
    click.echo(
        f"\n{model} on {source.name} ({source.eval.name}, {scores.images} images): {in_words}"
    )
    if json_file:
        origin = {"model": str(model), "data": source.name, "split": source.eval.name}
        unreadable = sorted(predictions.unreadable)
        if reassessed:
            origin["real"] = dataclasses.asdict(reassessed)
        files.write_json(json_file, {**origin, **scores.to_json(), "unreadable": unreadable})
    if confusion:
        title = f"{model}: {_in_words(scores.headline())}"
        images = [entry["images"] for entry in scores.per_class.values()]
        plots.confusion(scores.confusion, labels, confusion, title, images)
    if reliability:
        plots.reliability(scores.reliability, reliability, f"{model}: {in_words}")
    name_unreadable(predictions.unreadable)


def _per_class(per_class: dict[str, dict]) -> str:
    """A table of the classes that occur, with the figures of each."""
    kinds = list(next(iter(per_class.values())))
    rows = [
        [label, *(str(entry[k]) if k == "images" else percent(entry[k]) for k in kinds)]
        for label, entry in per_class.items()
        if entry["images"] or entry["precision"] is not None
    ]
    return table(rows, ["class", *(kind.replace("_", " ") for kind in kinds)])


def _in_words(headline: dict[str, float]) -> str:
    """The figures of a split in a line, the loss last."""
    present = [name for name in figures.NAMES if name in headline and name != "loss"]
    shares = [f"{figures.NAMES[name]} {percent(headline[name])}" for name in present]
    return f"{', '.join(shares)}, loss {headline['loss']:.4f}"
