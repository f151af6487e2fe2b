"""Which devices and which machines a command runs on, as its options or TF_CONFIG say; no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os

from edge_demo.errors import UserError

TF_CONFIG = "TF_CONFIG"
JOBS = ("chief", "worker")  # in the order of TensorFlow's task numbers


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train one model together, and which of them this process is.

    addresses: "host:port" of every worker; none where the process is alone. index: of this one.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0

    def __post_init__(self) -> None:
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise UserError(f"worker {address!r} is not HOST:PORT")
        if len(set(self.addresses)) < len(self.addresses):
            raise UserError(f"the same worker twice in {','.join(self.addresses)}")
        if not 0 <= self.index < self.count:
            raise UserError(f"worker index {self.index} is not one of 0-{self.count - 1}")

    @property
    def count(self) -> int:
        """How many workers there are, at least 1."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.index == 0

    def environment(self) -> dict[str, str]:
        """TF_CONFIG, by which TensorFlow finds the others."""
        task = {"type": "worker", "index": self.index}
        return {TF_CONFIG: json.dumps({"cluster": {"worker": self.addresses}, "task": task})}


@dataclasses.dataclass(frozen=True)
class Devices:
    """What `--strategy` and the options beside it say.

    strategy: a name of NAMES. tpu: its name, address, or "local".
    """

    strategy: str = "auto"
    cluster: Cluster = Cluster()
    tpu: str | None = None
    tpu_zone: str | None = None
    tpu_project: str | None = None


# name: what it trains on
NAMES = {
    "auto": "what there is: a TPU, the cluster that is named, several GPUs, or one device",
    "one": "one device",
    "mirrored": "a copy on each GPU of this machine",
    "multiworker": "a copy on each GPU of each worker",
    "tpu": "a copy on each core of a TPU",
}


def devices(
    strategy: str,
    workers: str | None,
    worker_index: int | None,
    tpu: str | None,
    tpu_zone: str | None,
    tpu_project: str | None,
) -> Devices:
    """`Devices` from the options of a command; UserError if they do not fit each other."""
    if workers and worker_index is None:
        raise UserError("--workers needs --worker-index: which of them this process is")
    if worker_index is not None and not workers:
        raise UserError("--worker-index needs --workers HOST:PORT,HOST:PORT")
    cluster = Cluster(tuple(workers.split(",")), worker_index) if workers else _from_tf_config()
    named = len(cluster.addresses) > 0
    if strategy == "multiworker" and not named:
        raise UserError("--strategy multiworker needs --workers and --worker-index, or TF_CONFIG")
    if named and strategy not in ("auto", "multiworker"):
        raise UserError(
            f"--strategy {strategy} is for one process; TF_CONFIG or --workers name more"
        )
    if strategy not in ("auto", "tpu") and tpu:
        raise UserError(f"--strategy {strategy} does not use --tpu {tpu}")
    return Devices(strategy, cluster, tpu, tpu_zone, tpu_project)


def _from_tf_config() -> Cluster:
    """The cluster of the environment; a process alone where there is none."""
    text = os.environ.get(TF_CONFIG)
    if not text:
        return Cluster()
    try:
        values = json.loads(text)
        jobs, task = values.get("cluster", {}), values.get("task", {})
        if not jobs:
            return Cluster()
        if set(jobs) - set(JOBS) or task["type"] not in jobs:
            raise UserError(
                f"{TF_CONFIG}: only the jobs {' and '.join(JOBS)} take part in training"
            )
        before = len(jobs.get("chief", ())) if task["type"] == "worker" else 0
        addresses = tuple(address for job in JOBS for address in jobs.get(job, ()))
        return Cluster(addresses, before + int(task["index"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{TF_CONFIG}: not what TensorFlow documents ({error!r})") from None
