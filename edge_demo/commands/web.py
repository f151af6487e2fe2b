"""`edge-demo web`: an exported web folder, served to browsers."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_demo.errors import UserError

if TYPE_CHECKING:
    from edge_demo.server.bounded_http import Server

SELF_SIGNED = (
    "a phone warns once, since this machine signed the certificate: Advanced or Details, go on"
)
EXAMPLES = """\b
Examples:
  edge-demo web exported/ --open
  edge-demo web exported/ --host 0.0.0.0 --https
  edge-demo web exported/ --host 0.0.0.0 --cert server.pem --key server-key.pem
"""


@click.command(epilog=EXAMPLES, short_help="Serve the page of an exported web folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0 is for every network this machine is in.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 picks a free one.",
)
@click.option(
    "--https",
    is_flag=True,
    help="Encrypt, with a certificate that this machine signs itself: a phone's camera asks for it.",
)
@click.option("--cert", type=click.Path(path_type=Path), help="A certificate of your own, in PEM.")
@click.option("--key", type=click.Path(path_type=Path), help="Its key, without a password.")
@click.option("--open", "show", is_flag=True, help="Open the page in this machine's browser.")
def web(folder, host, port, https, cert, key, show):
    """Serve DIR, which `tfvit convert --format web` wrote, to browsers.

    To those of this machine alone, unless --host says otherwise. In a terminal, a QR code leads a phone on
    the same network to the page. Ends with Ctrl-C.
    """
    import webbrowser

    from edge_demo.server import certificate, web_folder
    from edge_demo.stopping import idle, until_stopped

    if (cert is None) != (key is None):
        raise UserError("--cert and --key are the two halves of a certificate: give both")
    root = web_folder.find(folder)
    if cert:
        tls = certificate.context(cert, key)
    elif https:
        kept = Path(click.get_app_dir("edge-demo"))
        tls = certificate.context(*certificate.self_signed(kept, certificate.own_names()))
    else:
        tls = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(until_stopped())
        server = stack.enter_context(web_folder.serve(root, (host, port), _warn, tls))
        urls = _urls(server)
        click.echo("\n".join(urls))
        if server.only_here:
            _warn("for a phone on the same network: --host 0.0.0.0 --https")
        else:
            click.echo(_qr_code(urls[-1]), nl=False)
            _warn("whoever reaches this machine sees it: there is no password")
            if not tls:
                _warn("a phone gives its camera to https alone: add --https")
            elif not cert:
                _warn(SELF_SIGNED)
        if show:
            webbrowser.open(urls[0])
        idle()


def _urls(server: Server) -> list[str]:
    """Where the page is: of this machine first, of its network last."""
    from edge_demo.server.certificate import lan_addresses
    from edge_demo.server.http_messages import netloc

    if not server.bound.is_unspecified:
        return [server.url]
    scheme, port = server.url.partition(":")[0], server.server_address[1]
    addresses = [a for a in lan_addresses() if server.bound.version == 6 or "." in a]
    return [f"{scheme}://{netloc(host, port)}" for host in ("localhost", *reversed(addresses))]


def _qr_code(text: str) -> str:
    """Lines for a terminal; nothing for any other output, or without the package `segno`."""
    if not sys.stdout.isatty():
        return ""
    try:
        "█".encode(sys.stdout.encoding)
        import segno
    except (ModuleNotFoundError, UnicodeEncodeError):
        return ""
    lines = io.StringIO()
    segno.make_qr(text).terminal(lines, border=2, compact=True)
    # In colours of its own: on a light terminal it would be a negative, which not every phone reads.
    colours = {"fg": "bright_white", "bg": "black"}
    return "".join(click.style(line, **colours) + "\n" for line in lines.getvalue().splitlines())


def _warn(line: str) -> None:
    click.echo(line, err=True)
