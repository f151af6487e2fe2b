"""`--strategy NAME` -> a tf.distribute strategy, and what its workers have to agree on."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit import cluster as clusters
from tfvit.cluster import Devices
from tfvit.exit_codes import LostWorker, Stopped
from tfvit.peers import Watch, answers, meet

TPU_ANSWER = 60.0  # seconds in which a TPU has to be found
LOCAL_TPU = "/dev/accel0"  # there on a TPU machine

# Errors of a collective operation whose peer is gone.
LOSSES = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def _one(devices: Devices) -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


def _mirrored(devices: Devices) -> tf.distribute.Strategy:
    """One replica on every GPU, or on every (virtual) CPU device where there is no GPU."""
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found])


def _multiworker(devices: Devices) -> tf.distribute.Strategy:
    os.environ.update(devices.cluster.environment())
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:  # TensorFlow was in use before
        raise UserError(f"--strategy multiworker: {_reason(error)}") from None


def _tpu(devices: Devices) -> tf.distribute.Strategy:
    name = devices.tpu or os.environ.get("TPU_NAME") or "local"
    address = name.removeprefix("grpc://")
    if name.startswith("grpc://") and not answers(address):
        raise UserError(f"--tpu {name}: nothing answers there")
    found: list[tf.distribute.Strategy | BaseException] = []

    def connect() -> None:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                name, zone=devices.tpu_zone, project=devices.tpu_project
            )
            if name != "local":
                tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            found.append(tf.distribute.TPUStrategy(resolver))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=connect, daemon=True)  # which may wait for ever
    thread.start()
    thread.join(TPU_ANSWER)
    if not found:
        raise UserError(f"--tpu {name}: no answer within {TPU_ANSWER:.0f} s")
    if isinstance(found[0], BaseException):
        raise UserError(f"--tpu {name}: no TPU ({_reason(found[0])})")
    return found[0]


def _auto(devices: Devices) -> tf.distribute.Strategy:
    if devices.tpu or "TPU_NAME" in os.environ or Path(LOCAL_TPU).exists():
        return _tpu(devices)
    if devices.cluster.addresses:
        return _multiworker(devices)
    return (_mirrored if len(tf.config.list_logical_devices("GPU")) > 1 else _one)(devices)


STRATEGIES: dict[str, Callable[[Devices], tf.distribute.Strategy]] = {
    "auto": _auto,
    "one": _one,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}
assert STRATEGIES.keys() == clusters.NAMES.keys()


@contextlib.contextmanager
def opened(devices: Devices) -> Iterator[tf.distribute.Strategy]:
    """The strategy within the block, before which TensorFlow must not have computed anything.

    With several workers, the block ends when it has ended on all of them; one that is lost ends the
    process with LOST_WORKER. Raises UserError where there is no such device.
    """
    meet(devices.cluster)
    strategy = STRATEGIES[devices.strategy](devices)
    watch = Watch(devices.cluster)
    try:
        stopped = None
        try:
            yield strategy
        except Stopped as error:
            stopped = error
        everyones(strategy, 0)  # the others need this one until they are done, too
        if stopped:
            raise stopped
    except LOSSES as error:
        if devices.cluster.count == 1:
            raise
        watch.find_lost()
        raise LostWorker(f"the workers lost each other: {_reason(error)}") from None
    finally:
        watch.stop()


def everyones(strategy: tf.distribute.Strategy, value: int | np.ndarray) -> np.ndarray:
    """The numbers of all workers behind each other, int64, once for each replica; all have to ask."""
    mine = np.atleast_1d(np.asarray(value, np.int64))
    return _gather(strategy)(tf.constant(mine)).numpy() if is_multiworker(strategy) else mine


def is_multiworker(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@functools.cache
def _gather(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiled once: gathering is traced anew otherwise, each time."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
    def gather(mine: tf.Tensor) -> tf.Tensor:
        return strategy.gather(strategy.run(tf.identity, args=(mine,)), axis=0)

    return gather


def from_chief(strategy: tf.distribute.Strategy, text: str | None) -> str:
    """The chief's text, on all workers; text: None on the others."""
    data = [] if text is None else list(text.encode())
    told = everyones(strategy, [len(data), *data] if text is not None else [])
    return bytes(told[1 : 1 + told[0]].tolist()).decode()


def same(strategy: tf.distribute.Strategy, value: int, what: str) -> None:
    """UserError if a number is not the same on all workers; what: its name."""
    values = everyones(strategy, value)
    if len(set(values.tolist())) > 1:
        raise UserError(f"{what} differs between the workers: do all of them see the same storage?")


def _reason(error: BaseException) -> str:
    """The one line of TensorFlow's many that tells something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "aborted by" in line), lines[0] if lines else "")
