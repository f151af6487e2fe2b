"""`edge-demo web`: an exported web folder, served."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  edge-demo web exported/
  edge-demo web exported/ --open
"""


@click.command(epilog=EXAMPLES, short_help="Serve the page of an exported web folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 picks a free one.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in this machine's browser.")
def web(folder, host, port, show):
    """Serve DIR, which `tfvit convert --format web` wrote, or its web/, to browsers.

    Of this machine alone, unless --host says otherwise.
    """
    import webbrowser

    from edge_demo import web_server
    from edge_demo.stopping import until_stopped

    root = web_server.web_folder(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(until_stopped())
        server = stack.enter_context(web_server.serve(root, (host, port), _warn))
        click.echo(server.url)
        if show:
            webbrowser.open(server.url)
        while True:
            time.sleep(3600)


def _warn(line: str) -> None:
    click.echo(line, err=True)
