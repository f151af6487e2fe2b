"""One way to show progress: a bar on a terminal, nothing in a log file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TypeVar

import click

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], label: str
) -> contextlib.AbstractContextManager[Iterable[Item]]:
    """The items, and on stderr a bar of how many have been taken; a `with` block closes it."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext(items)
    return click.progressbar(items, label=label, file=sys.stderr)
