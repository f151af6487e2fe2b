"""The `edge-demo` command."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click

from edge_demo.errors import UserError
from edge_demo.scores import PRESENT, SIGMOID

Results = list[tuple[str, float]]  # of all labels, the best first
EXAMPLES = """\b
Examples:
  edge-demo int8.tflite --source photo.jpg
  edge-demo int8.tflite --source photos/ --json > results.jsonl
  edge-demo int8.tflite --source 'photos/**/*.png' --top 1
"""


class OneLineErrors:
    """Mixed into a click command: errors that a user can put right end as one line on stderr."""

    def make_context(self, *args, **kwargs) -> click.Context:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context):
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(error.format_message().replace("\n", " ") + where, error.exit_code)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has nowhere to go
        if error.errno != errno.EPIPE:  # else whoever read the output has seen enough
            _fail(error.strerror or str(error), UserError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


class Command(OneLineErrors, click.Command):
    """A single command with `OneLineErrors`."""


@click.command(cls=Command, epilog=EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="An image, a folder (searched in depth) or a glob.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Labels to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image and line.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: the runtime's).")
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.version_option(package_name="tfvit")
def main(model: Path, source: str, top: int, as_json: bool, threads: int | None, strict: bool):
    """Classify images with MODEL, a .tflite written by `tfvit convert`.

    Prints the most probable labels with their scores and the time each image took; a star marks what is
    in the image, where the model knows of several things in one.
    Unreadable images are skipped and named at the end.
    """
    from edge_demo import images
    from edge_demo.classifier import Classifier

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a bar in a terminal that has no such character
    files = images.find(source)
    classifier = Classifier(model, threads)
    show = _json_line if as_json else _table
    several = classifier.score_function == SIGMOID
    skipped, inference = [], []
    for file in files:
        try:
            results = classifier.classify(file, len(classifier.labels))
        except UserError as error:
            if strict or len(files) == 1:
                raise
            skipped.append(error)
            continue
        times = classifier.milliseconds
        inference.append(times["inference"])
        click.echo(show(file, results, times, top, several))
    _summary(inference, skipped, len(files))


def _json_line(file: Path, results: Results, times: dict, top: int, several: bool) -> str:
    found = {
        "source": str(file),
        "label": results[0][0],
        "score": round(results[0][1], 6),
        "top": [{"label": label, "score": round(score, 6)} for label, score in results[:top]],
    }
    if several:
        found["labels"] = [label for label, score in results if score >= PRESENT]
    found["milliseconds"] = {stage: round(ms, 3) for stage, ms in times.items()}
    return json.dumps(found, ensure_ascii=False)


def _table(file: Path, results: Results, times: dict, top: int, several: bool) -> str:
    width = max(len(label) for label, _ in results)
    lines = [f"{file}  ({sum(times.values()):.1f} ms, inference {times['inference']:.1f} ms)"]
    for label, score in results[:top]:
        star = "*" if several and score >= PRESENT else " "
        bar = "█" * round(30 * score)
        lines.append(f"{star} {label:<{width}}  {100 * score:5.1f} %  {bar}".rstrip())
    return "\n".join(lines)


def _summary(inference: list[float], skipped: list[UserError], count: int) -> None:
    """Totals and skipped files, on stderr so that results can be piped."""
    if count > 1 and inference:
        median = sorted(inference)[len(inference) // 2]
        click.echo(f"{len(inference)} images, median inference {median:.1f} ms", err=True)
    if skipped:
        click.echo(f"skipped {len(skipped)} of {count} files:", err=True)
        for error in skipped:
            click.echo(f"  {error}", err=True)
    if not inference:
        raise UserError("none of the files is a readable image")
