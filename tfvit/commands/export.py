"""`tfvit convert`: a checkpoint to files for devices."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from convert.schemes import CALIBRATIONS, SCHEMES, parse
from convert.tfjs_weights import WEIGHTS
from edge_demo.errors import UserError
from edge_demo.option_types import Number
from edge_demo.tables import percent, table
from tfvit import figures
from tfvit.options import (
    PATH,
    ImageSizes,
    Names,
    data_options,
    name_unreadable,
    need,
    seed_option,
    strategy_option,
)

FORMATS = ("tflite", "tfjs", "web")
DEFAULTS = {"tfjs": "float32", "web": "float16"}  # types of weights


@click.command()
@click.argument("checkpoint", type=PATH)
@data_options(required=False)
@click.option("--int8", is_flag=True, help="The same as --scheme int8.")
@click.option(
    "--scheme",
    "names",
    help=f"One or more of {', '.join(SCHEMES)}, with commas.",
)
@click.option(
    "--format",
    "formats",
    type=Names(FORMATS),
    default="tflite",
    show_default=True,
    help=f"One or more of {', '.join(FORMATS)}, with commas; the .tflite files are always written.",
)
@click.option(
    "--tfjs-weights",
    type=Names(WEIGHTS),
    help=f"One or more of {', '.join(WEIGHTS)}.  [default: float32, for the web float16]",
)
@click.option(
    "--image-size",
    "image_sizes",
    type=ImageSizes(),
    help="N or HEIGHTxWIDTH, or several with commas.  [default: as trained]",
)
@click.option("--out", type=PATH, required=True, help="Folder for the exported files.")
@click.option("--calibrate-only", is_flag=True, help="No fine-tuning: post-training quantization.")
@click.option("--qat-steps", type=click.IntRange(0), help="[default: as the scheme has it]")
@click.option(
    "--qat-lr",
    type=Number(0, min_open=True),
    help="Relative to weights.  [default: as the scheme has it]",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    default="minmax",
    show_default=True,
    help="How the ranges of activations are taken.",
)
@click.option("--calibration-images", type=click.IntRange(1), default=256, show_default=True)
@click.option("--sensitivity", is_flag=True, help="Measure what rounding each layer alone costs.")
@click.option(
    "--max-drop",
    type=Number(-100, 100),
    metavar="POINTS",
    help="Keep the most costly layers in float until no file loses more accuracy than this.",
)
@click.option(
    "--with-features",
    is_flag=True,
    help="The files also tell what the head reads: to search by, or for edge-demo enroll.",
)
@click.option(
    "--with-attention", is_flag=True, help="The files also tell where in the picture they looked."
)
@strategy_option("Of the fine-tuning: one device, or a copy on each GPU.")
@seed_option()
def convert(
    checkpoint,
    int8,
    names,
    formats,
    tfjs_weights,
    image_sizes,
    out,
    calibrate_only,
    qat_steps,
    qat_lr,
    batch_size,
    calibration,
    calibration_images,
    sensitivity,
    max_drop,
    with_features,
    with_attention,
    devices,
    seed,
    **options,
):
    """Export CHECKPOINT, a checkpoint or run folder, to files that are checked as they are made.

    Writes float32.tflite, a file for each scheme, labels.txt, report.json and report.html: parity with
    the Keras model, accuracy on the held-out images, size, memory and latency of each file; and
    reference/, 16 held-out pictures by which a device checks itself (edge-demo parity). --format tfjs
    adds a TensorFlow.js model for each of --tfjs-weights, in tfjs/; --format web a page with all of them
    in web/, for edge-demo web or any static host.

    \b
    Examples:
      tfvit convert runs/photos --data photos/ --int8 --out exported/
      tfvit convert runs/photos --data photos/ --scheme dynamic,int8,int8-full --out exported/
      tfvit convert runs/photos --data photos/ --int8 --image-size 96,160,224 --out exported/
      tfvit convert runs/photos --data photos/ --int8 --max-drop 0.5 --sensitivity --out exported/
      tfvit convert runs/photos --data photos/ --int8 --format web --out exported/
      tfvit convert runs/photos --data photos/ --int8 --with-features --with-attention --out exported/
    """
    asked = ["int8"] * int8 + ([] if names is None else [names])
    schemes = parse(",".join(asked or ["float32"]))
    hungry = [scheme.name for scheme in schemes if scheme.needs_data]
    if hungry and not options["data"]:
        flag = "--int8" if int8 else f"--scheme {hungry[0]}"
        raise UserError(f"{flag} needs --data: images to calibrate, to tune and to measure on")
    if tfjs_weights and formats == ("tflite",):
        raise UserError("--tfjs-weights needs --format tfjs or --format web")
    need("convert")
    from convert import web
    from convert.export import export
    from convert.extras import ATTENTION, FEATURES
    from convert.tune import Options
    from tfvit.checkpoint import find, read_config
    from tfvit.data import open_source
    from tfvit.setup_run import data_of
    from tfvit.strategies import opened

    read_config(find(checkpoint))  # before the slow part
    steps = 0 if calibrate_only else qat_steps
    with opened(devices) as strategy, tempfile.TemporaryDirectory() as elsewhere:
        report = export(
            find(checkpoint),
            out if devices.cluster.is_chief else Path(elsewhere),
            schemes=schemes,
            source=open_source(data_of(options)) if options["data"] else None,
            image_sizes=image_sizes or (None,),
            options=Options(steps, qat_lr, batch_size, calibration, calibration_images, seed),
            strategy=strategy,
            with_sensitivity=sensitivity,
            max_drop=max_drop,
            tfjs_weights=tfjs_weights or [DEFAULTS[name] for name in formats if name in DEFAULTS],
            page_for_web=web.DIST if "web" in formats else None,
            extras=[FEATURES] * with_features + [ATTENTION] * with_attention,
        )
    figure = figures.best_by(next(iter(report["files"].values())).get("accuracy", ["top1"]))
    rows = [
        [
            entry["file"],
            f"{entry['bytes'] / 1e6:.2f} MB",
            percent(entry.get("accuracy", {}).get(figure)),
            percent(entry.get("unchanged")),
            f"{entry['latency_ms']['1']:.2f} ms" if "latency_ms" in entry else "-",
            f"{entry['speedup']['1']:.2f}x" if "speedup" in entry else "-",
        ]
        for entry in (*report["files"].values(), *report["tfjs"].values())
    ]
    click.echo(
        table(rows, ["file", "size", figures.NAMES[figure], "unchanged", "1 thread", "speed"])
    )
    for stem, costs in report.get("sensitivity", {}).items():
        worst = [[n, f"{c['kl']:.1e}", percent(c["changed"])] for n, c in list(costs.items())[:10]]
        click.echo("\n" + table(worst, [f"{stem}: rounded alone", "nats", "changed"]))
    names = ["files", "labels.txt", "report.json", "report.html", "reference"]
    names += [name for name in FORMATS if name in formats and name != "tflite"]
    click.echo(f"\n{out}: {', '.join(names)} ({report['seconds']:.0f} s)")
    name_unreadable({n: n for e in report["files"].values() for n in e.get("unreadable", [])})
