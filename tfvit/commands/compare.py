"""`tfvit compare`: the curves of several runs in one picture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.tables import percent, table
from tfvit.compare import AGAINST, differences, draw, read
from tfvit.figures import NAMES
from tfvit.options import PATH


@click.command()
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=PATH, default=Path("curves.png"), show_default=True, help="A PNG.")
@click.option(
    "--against",
    type=click.Choice(list(AGAINST)),
    default="steps",
    show_default=True,
    help="What the curves are drawn over.",
)
@click.option("--json", "json_file", type=PATH, help="Write the figures to a file.")
def compare(folders, out, against, json_file):
    """Draw the curves of several runs in one picture, and say what they came to and how they differ.

    A RUN may be finished, killed or still running.

    \b
    Examples:
      tfvit compare runs/* --out curves.png
      tfvit compare runs/small runs/large --against time --json figures.json
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("needs matplotlib: pip install 'tfvit[train]'")
    records = read(list(folders))
    summaries = {record.name: record.summary() for record in records}
    differing = differences(records)
    draw(records, out, against)
    header = ["run", "steps", "judged by", "best", "at step", "last", "last loss", "images/s"]
    click.echo(table([_row(name, s) for name, s in summaries.items()], header))
    if differing:
        rows = [[name, *map(_text, values)] for name, values in differing.items()]
        click.echo("\n" + table(rows, ["setting", *summaries]))
    elif len(records) > 1:
        click.echo("\nall settings are the same")
    click.echo(f"\ncurves {out}")
    if json_file:
        files.write_json(json_file, {"runs": summaries, "differences": differing})


def _row(name: str, summary: dict) -> list[str]:
    steps = f"{summary['steps']}/{summary['of_steps'] or '?'}"
    loss, speed = summary["last_loss"], summary["images_per_second"]
    figure = summary["figure"]
    words = "{:.4f}".format if figure == "loss" else percent
    return [
        name,
        steps,
        NAMES.get(figure, "-"),
        "-" if figure is None else words(summary["best"]),
        "-" if figure is None else str(summary["best_step"]),
        "-" if figure is None else words(summary["last"]),
        "-" if loss is None else f"{loss:.4f}",
        "-" if speed is None else f"{speed:.0f}",
    ]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
