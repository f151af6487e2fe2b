"""Watching the other workers: one that is gone ends this process within seconds, by one line.

TensorFlow notices a lost peer, too, but then waits or ends with a trace from C++.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from edge_demo.errors import UserError
from tfvit.cluster import Cluster
from tfvit.exit_codes import LOST_WORKER
from tfvit.saving import THREAD

EVERY = 2.0  # seconds between two looks at a peer
PATIENCE = 3  # looks in a row without an answer until a peer counts as lost: 6-12 seconds
ANNOUNCE = 10.0  # seconds until a peer that is not there yet is named
LAST_WRITE = 10.0  # seconds that a checkpoint which is being written is waited for


def meet(cluster: Cluster) -> None:
    """Returns when every worker is there; to be called before TensorFlow, which waits deaf to Ctrl-C.

    Raises UserError if this worker's own port is taken.
    """
    missing = _others(cluster)
    if not missing:
        return
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    announce = time.monotonic() + ANNOUNCE
    try:
        mine = socket.create_server(("", port))  # answers for TensorFlow until that listens here
    except OSError as error:
        raise UserError(f"port {port} of this worker: {error.strerror}; choose another") from None
    with mine:
        while missing := {i: address for i, address in missing.items() if not answers(address)}:
            if time.monotonic() > announce:
                announce = float("inf")
                names = ", ".join(f"{i} ({address})" for i, address in missing.items())
                print(f"waiting for worker {names}", file=sys.stderr, flush=True)
            time.sleep(0.2)


class Watch:
    """A thread that connects to each peer's port every few seconds, until `stop`.

    A peer is lost if it does not answer PATIENCE times in a row.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._peers = _others(cluster)
        self._failures = dict.fromkeys(self._peers, 0)
        self._stopped = threading.Event()
        self._ending = threading.Lock()
        if self._peers:
            threading.Thread(target=self._look, name="peers", daemon=True).start()

    def stop(self) -> None:
        """Peers may go from now on."""
        self._stopped.set()

    def find_lost(self) -> None:
        """Ends the process if a peer does not answer, which is soon clear after an error."""
        deadline = time.monotonic() + EVERY * PATIENCE
        while time.monotonic() < deadline:
            for i, address in self._peers.items():
                if not answers(address):
                    self._end(i)
            time.sleep(0.2)

    def _look(self) -> None:
        while not self._stopped.wait(EVERY):
            for i, address in self._peers.items():
                self._failures[i] = 0 if answers(address) else self._failures[i] + 1
                if self._failures[i] >= PATIENCE and not self._stopped.is_set():
                    self._end(i)

    def _end(self, worker: int) -> None:
        with self._ending:  # never released: one line is enough
            for thread in threading.enumerate():
                if thread.name == THREAD:
                    thread.join(LAST_WRITE)
            lost = f"worker {worker} ({self._peers[worker]}) does not answer any more"
            print(f"error: {lost}; start all again with --resume", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(LOST_WORKER)  # TensorFlow's own shutdown would wait for the one that is gone


def _others(cluster: Cluster) -> dict[int, str]:
    return {i: a for i, a in enumerate(cluster.addresses) if i != cluster.index}


def answers(address: str) -> bool:
    """Whether somebody listens at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY):
            return True
    except OSError:
        return False
