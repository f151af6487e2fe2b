"""`tfvit inspect`: the paper's figures of what is inside a model."""

from __future__ import annotations

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.tables import table
from tfvit.options import PATH, ImageSize, Place, need


@click.command("inspect")
@click.argument("model", type=PATH)
@click.option(
    "--image",
    "sources",
    multiple=True,
    help="A picture, a folder or a glob; again for more. All are measured, the first 8 drawn.",
)
@click.option("--out", type=PATH, required=True, help="Folder to write to.")
@click.option(
    "--image-size", type=ImageSize(), help="N or HEIGHTxWIDTH.  [default: the model's own]"
)
@click.option(
    "--tflite",
    "tflites",
    type=PATH,
    multiple=True,
    help="A file exported with --with-attention, whose attention is drawn beside; again for more.",
)
@click.option(
    "--query",
    type=Place(),
    help="Patch whose attention the heads' maps show, counted from 1.  [default: what the head reads]",
)
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
def inspect(model, sources, out, image_size, tflites, query, json_file):
    """Draw what MODEL, a checkpoint or run folder, sees with and where it looks.

    Filters of the patch embedding, similarity of the position embeddings, mean attention distance, attention
    rollout, and the attention of each head: inspect.html with all of them, and each as a PNG in inspect/.

    \b
    Examples:
      tfvit inspect dinov2 --image photo.jpg --out inside
      tfvit inspect dinov2 --image photos/test --image-size 224x336 --query 4,11 --out inside
      tfvit inspect runs/photos --image photo.jpg --tflite exported/int8.tflite --out inside
    """
    if (tflites or query) and not sources:
        raise UserError("--tflite and --query need a picture: --image")
    from edge_demo import images

    paths = [path for source in sources for path in images.find(source)]
    need("train")
    from tfvit import checkpoint
    from tfvit.inspect import report
    from tfvit.progress import progress

    folder = checkpoint.find(model)
    loaded = checkpoint.load(folder, image_size=image_size)
    with progress(len(paths), "looking", "img") as bar:
        found, drawn = report.gather(loaded, paths, tflites, query, bar.update)
    report.write(found, drawn, out, str(model))
    if json_file:
        files.write_json(json_file, {"path": str(folder), **found})
    height, width = loaded.architecture.image_size
    click.echo(f"{folder}: {loaded.architecture.name} at {height}x{width}")
    for line in found["lacks"]:
        click.echo(line)
    if "distance" in found:
        click.echo(_distances(found["distance"], len(paths)))
    for entry in found["images"]:
        for name, one in entry["files"].items():
            click.echo(f"{entry['path']}: rollout of {name}, correlation {one['correlation']:.4f}")
    names = ", ".join(f"{name}.png" for name in drawn)
    click.echo(f"{out / report.PAGE}, and in {out / report.FIGURES}: {names}")


def _distances(far: list[list[float]], pictures: int) -> str:
    """A table of mean attention distances, [depth][heads] in pixels."""
    rows = [
        [str(i), *(f"{value:.1f}" for value in (min(row), sum(row) / len(row), max(row)))]
        for i, row in enumerate(far, 1)
    ]
    of = f"{pictures} pictures" if pictures > 1 else "1 picture"
    header = ["block", "nearest head", "mean", "farthest head"]
    return f"mean attention distance in pixels, {of}:\n{table(rows, header)}"
