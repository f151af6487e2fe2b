"""What the benchmarks' commands are."""

import click

from edge_demo.cli import OneLineErrors


class Command(OneLineErrors, click.Command):
    """A program of one command; errors that a user can put right end as one line."""
