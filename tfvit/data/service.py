"""tf.data service: reading and augmenting in other processes, to the same batches as without.

Each server has one worker, which goes through the steps that fall to it in order; the trainer takes
from the servers in turn. So it is known beforehand which server makes which batch, and what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from edge_demo.errors import UserError

SCHEME = "grpc://"


def spread(
    pieces: Callable[[int, int], tf.data.Dataset], services: Sequence[str], per_step: int
) -> tf.data.Dataset:
    """The pieces of all steps in order, made by `services` in turn, or here where there are none.

    pieces: (turn, turns) -> the pieces of every `turns`-th step from the `turn`-th on.
    per_step: pieces in a step.
    """
    if not services:
        return pieces(0, 1)
    count = len(services)
    made = [
        pieces(turn, count).apply(
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.OFF, address(name), compression=None
            )
        )
        for turn, name in enumerate(services)
    ]
    turns = tf.data.Dataset.range(count * per_step).map(lambda i: i // per_step).repeat()
    return tf.data.Dataset.choose_from_datasets(made, turns)


def address(name: str) -> str:
    """A service's address with its scheme; UserError if it is not grpc://HOST:PORT."""
    host, _, port = name.removeprefix(SCHEME).rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise UserError(f"data service {name!r} is not {SCHEME}HOST:PORT")
    return name if name.startswith(SCHEME) else SCHEME + name


def serve(host: str, port: int) -> tuple[str, tuple]:
    """Starts a dispatcher and its worker in this process: (its address, both, to be kept).

    host: where trainers reach it; TensorFlow listens on every interface, whatever it is.
    port: 0 takes a free one. The worker finds a port of its own.
    Raises UserError if the port is taken.
    """
    from tensorflow.data.experimental import service

    from tfvit.data import views  # gives this process the function that the graphs name

    assert views.NAME
    try:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    except Exception as error:
        raise UserError(f"port {port}: {error}") from None
    inside = dispatcher.target.split("://")[1]
    # %port% is for TensorFlow to fill in
    worker = service.WorkerServer(service.WorkerConfig(inside, worker_address=f"{host}:%port%"))
    return f"{SCHEME}{host}:{inside.rpartition(':')[2]}", (dispatcher, worker)
