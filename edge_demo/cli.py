"""The `edge-demo` command: a thin layer over `commands/`."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from edge_demo.commands import benchmark, classify, enroll, parity, web
from edge_demo.errors import UserError


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


class Group(OneLineErrors, click.Group):
    """A group of commands with `OneLineErrors`; what begins with none of their names is `classify`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "--version"):
            args = [classify.classify.name, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Group, epilog=classify.EXAMPLES, context_settings={"max_content_width": 100})
@click.version_option(package_name="tfvit")
def main():
    """Run exported models on this device.

    edge-demo MODEL --source SOURCE is short for edge-demo classify MODEL --source SOURCE.
    """


for command in (classify.classify, benchmark.benchmark, parity.parity, enroll.enroll, web.web):
    main.add_command(command)
