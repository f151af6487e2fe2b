"""`tfvit data-service`: a process that reads and augments for trainers elsewhere."""

from __future__ import annotations

import os

import click

from edge_demo.stopping import idle, until_stopped
from tfvit.options import need


@click.command("data-service")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address that trainers reach it at."
)
@click.option("--port", type=click.IntRange(0, 65535), default=5050, show_default=True)
def data_service(host, port):
    """Read and augment pictures for `tfvit train --data-service`, until Ctrl-C.

    A dispatcher and its worker. Start as many as are needed, on as many machines: the batches are the same
    as without any. Each must see the files under the names the trainer gives. TensorFlow's servers listen
    on every interface, whatever --host, and compute what they are sent: open the ports to trainers only.

    \b
    Examples:
      tfvit data-service
      tfvit data-service --host 10.0.0.7 --port 5051
      tfvit train --data-service grpc://10.0.0.7:5050,grpc://10.0.0.7:5051 ...
    """
    need("train")
    from tfvit.data import service

    with until_stopped():
        address, _servers = service.serve(host, port)
        click.echo(f"serving at {address}")
        idle()
    click.echo("stopped")
    os._exit(0)  # to stop the servers may wait for ever for a trainer that is still reading
