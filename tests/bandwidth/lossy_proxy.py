# SPDX-License-Identifier: Apache-2.0
"""A network between two UDP ports of this machine that loses packets and delays them unevenly."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np


class LossyProxy:
    """Forwards packets until it is closed.

    Attributes:
        port: where it listens.
        lost: number of packets that it dropped.
        swapped: number of packets that it forwarded after the one that came next.
    """

    def __init__(
        self,
        target: int,
        *,
        loss: float = 0.0,
        jitter: float = 0.0,
        swap: float = 0.0,
        seed: int = 0,
    ):
        """Forward to a port.

        Args:
            target: the port.
            loss: part of the packets that is lost.
            jitter: longest delay in seconds.
            swap: part of the packets that the next one overtakes, if it comes within 50 ms.
            seed: of random numbers.
        """
        self._target, self._loss, self._jitter = ("127.0.0.1", target), loss, jitter
        self._swap = swap
        self._random = np.random.default_rng(seed)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.port, self.lost, self.swapped = self._socket.getsockname()[1], 0, 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._thread.join()
        self._socket.close()

    def _run(self):
        count, held = 0, b""
        while not self._closed.is_set():
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                if held:
                    self._socket.sendto(held, self._target)
                held = b""
                continue
            count += 1
            # Like a router's queue: packets keep their order, and one delays all that follow.
            time.sleep(self._jitter * self._random.random())
            if count > 4 and self._random.random() < self._loss:
                self.lost += 1
                continue
            if not held and count > 4 and self._random.random() < self._swap:
                held = data
                continue
            self._socket.sendto(data, self._target)
            if held:
                self._socket.sendto(held, self._target)
                held, self.swapped = b"", self.swapped + 1


def free_port() -> int:
    """Return a UDP port that nothing listens at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
