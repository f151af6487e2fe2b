"""Where results go: each output is a context that gives a function to call with every result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click

from edge_demo import render
from edge_demo.results import Result

Take = Callable[[Result], None]


@contextlib.contextmanager
def lines(form: str, top: int) -> Iterator[Take]:
    """Lines on stdout in a form of `render.FORMATS`."""
    show, head = render.FORMATS[form], render.HEADS.get(form)

    def take(result: Result) -> None:
        nonlocal head
        if head:
            click.echo(head)
            head = None
        click.echo(show(result, top))

    yield take
