"""What the commands of `tfvit` share: option types, the data options, the check for extras."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.option_types import Number
from edge_demo.quiet import quiet
from tfvit import cluster
from tfvit.exit_codes import INTERRUPTED, Stopped

PATH = click.Path(path_type=Path)
# extra: modules that come with it
EXTRAS = {
    "train": (
        "tensorflow",
        "tf_keras",
        "tensorflow_datasets",
        "safetensors",
        "sklearn",
        "cv2",
        "jinja2",
    ),
    "convert": (
        "tensorflow",
        "tf_keras",
        "tensorflow_model_optimization",
        "ai_edge_quantizer",
    ),
}


def need(extra: str) -> None:
    """Imports TensorFlow without its greeting, or raises UserError with the pip command for an extra."""
    for module in EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"needs {module}: pip install 'tfvit[{extra}]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        logger = importlib.import_module("tensorflow").get_logger()
        for handler in logger.handlers:  # else they keep the silenced output, which is closed then
            handler.setStream(sys.__stderr__)
        logger.setLevel("ERROR")


class ImageSize(click.ParamType):
    """N, or HEIGHTxWIDTH, in pixels."""

    name = "pixels"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        if isinstance(value, (tuple, list)):
            return tuple(value)
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value)
        if not match:
            self.fail(f"{value!r} is neither a number of pixels nor HEIGHTxWIDTH")
        return int(match[1]), int(match[2] or match[1])


class ImageSizes(ImageSize):
    """One or more of N or HEIGHTxWIDTH, separated by commas."""

    name = "pixels,..."

    def convert(self, value, param, ctx) -> tuple[tuple[int, int], ...]:
        if isinstance(value, tuple):
            return value
        parts = [super(ImageSizes, self).convert(part, param, ctx) for part in value.split(",")]
        return tuple(dict.fromkeys(parts))


class Place(click.ParamType):
    """ROW,COLUMN, counted from 1; as a value from 0."""

    name = "ROW,COLUMN"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        if isinstance(value, (tuple, list)):
            return tuple(value)
        match = re.fullmatch(r"0*([1-9]\d{0,4}),0*([1-9]\d{0,4})", value)
        if not match:
            self.fail(f"{value!r} is not ROW,COLUMN, counted from 1")
        return int(match[1]) - 1, int(match[2]) - 1


class Names(click.ParamType):
    """One or more names, separated by commas; of some, if these are given."""

    name = "name,..."

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = known

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        for part in parts:
            if not part:
                self.fail(f"{value!r} has an empty name in it")
            if self._known and part not in self._known:
                self.fail(f"{part!r} is not one of {', '.join(self._known)}")
        return tuple(dict.fromkeys(parts))


WORDS = {"true": True, "false": False}


class Shares(click.ParamType):
    """One or more numbers above 0 and up to 1, separated by commas; in order, each once."""

    name = "share,..."

    def convert(self, value, param, ctx) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        one = Number(0, 1, min_open=True)
        return tuple(sorted({one.convert(part, param, ctx) for part in value.split(",")}))


class Setting(click.ParamType):
    """KEY=VALUE with a number, true, false or text as value."""

    name = "KEY=VALUE"

    def convert(self, value, param, ctx) -> tuple[str, int | float | str]:
        if isinstance(value, (tuple, list)):
            return tuple(value)
        key, separator, text = value.partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is not KEY=VALUE")
        if text.lower() in WORDS:
            return key, WORDS[text.lower()]
        for kind in (int, float):
            try:
                return key, kind(text)
            except ValueError:
                continue
        return key, text


def data_options(required: bool = True, fraction: bool = True) -> Callable:
    """Adds --data, --split, --train-split, --eval-split and, if asked for, --fraction to a command."""

    of_classes = click.option(
        "--fraction",
        type=Number(0, 1, min_open=True),
        metavar="SHARE",
        help="Share of the training images to use, of each class the same.",
    )

    def decorate(command: Callable) -> Callable:
        for option in reversed(
            (
                click.option(
                    "--data",
                    required=required,
                    help="An image folder (train/ and test/ or val/, or neither with --split; a folder "
                    "per class or a labels.csv inside), tfds:NAME[:CONFIG], vtab:TASK, or digits.",
                ),
                click.option(
                    "--split",
                    "holdout",
                    type=Number(0, 1, min_open=True, max_open=True),
                    metavar="SHARE",
                    help="Share of a folder without train/ and test/ that is held out.",
                ),
                *([of_classes] if fraction else []),
                click.option("--train-split", help="Split to train on, as 'train[:90%]' of TFDS."),
                click.option("--eval-split", help="Split to measure on, as 'train[90%:]' of TFDS."),
            )
        ):
            command = option(command)
        return command

    return decorate


def few_shot_options(command: Callable) -> Callable:
    """Adds --seeds and --l2, the protocol of few-shot accuracies, to a command."""
    seeds = click.option(
        "--seeds",
        type=click.IntRange(1, 1000),
        default=5,
        show_default=True,
        help="Draws of the few training images.",
    )
    l2 = click.option(
        "--l2",
        type=Number(0, min_open=True),
        default=1024,
        show_default=True,
        help="Penalty that is the same for all shots and data sets.",
    )
    return seeds(l2(command))


def strategy_option(summary: str) -> Callable:
    """Adds --strategy and what it takes to a command, which gets one `tfvit.cluster.Devices`: `devices`."""

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def with_devices(*args, **options):
            given = {name: options.pop(name) for name in names}
            return command(*args, devices=cluster.devices(**given), **options)

        names = inspect.signature(cluster.devices).parameters
        for option in reversed(
            (
                click.option(
                    "--strategy",
                    type=click.Choice(list(cluster.NAMES)),
                    default="auto",
                    show_default=True,
                    help=summary,
                ),
                click.option(
                    "--workers",
                    metavar="HOST:PORT,...",
                    help="Addresses of all workers, instead of TF_CONFIG.",
                ),
                click.option(
                    "--worker-index", type=click.IntRange(0), help="Which of them this is."
                ),
                click.option(
                    "--tpu", metavar="NAME", help="A TPU by name, grpc://HOST:PORT, or local."
                ),
                click.option("--tpu-zone", metavar="ZONE"),
                click.option("--tpu-project", metavar="PROJECT"),
            )
        ):
            with_devices = option(with_devices)
        return with_devices

    return decorate


def cache_option(command: Callable) -> Callable:
    """Adds --cache to a command."""
    return click.option("--cache", help="Keep decoded pictures: 'memory', or a folder.")(command)


@contextlib.contextmanager
def stoppable(ctx: click.Context, how: str) -> Iterator[None]:
    """Ends a command that SIGTERM or Ctrl-C stops within this context in one line; how: to go on."""
    try:
        yield
    except Stopped as stopped:
        click.echo(f"\nstopped, all saved; {how}", err=True)
        ctx.exit(stopped.exit_code)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; {how}", err=True)
        ctx.exit(INTERRUPTED)


def seed_option(default: int | None = 0) -> Callable:
    """Adds --seed to a command."""
    kind = click.IntRange(0, 2**31 - 1)
    return click.option("--seed", type=kind, default=default, show_default=default is not None)


def name_unreadable(unreadable: dict[str, str]) -> None:
    """Names the files that were left out, on stderr."""
    if unreadable:
        click.echo(f"skipped {len(unreadable)} unreadable images:", err=True)
        for reason in sorted(unreadable.values()):
            click.echo(f"  {reason}", err=True)
