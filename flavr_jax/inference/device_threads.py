# SPDX-License-Identifier: Apache-2.0
"""Computations that are started by a thread for each device.

Starting one takes milliseconds: frames are uploaded, and a few hundred kernels are queued. XLA
releases Python's lock meanwhile, so that several devices are served at once, while another thread
plans the next computations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jax import Array

from flavr_jax.inference.computation import Computation, Made, Pending
from flavr_jax.inference.passes import Network
from flavr_jax.inference.pipeline import Pipeline, Worker
from flavr_jax.inference.windows import Boundary
from flavr_jax.typing import Frame
from flavr_jax.video.frames import Picture
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.picture import Resident

__all__ = ["Dispatched", "Spread"]


@runtime_checkable
class Spread(Network, Protocol):
    """A network on several devices, which computes on any of them when told to."""

    @property
    def concurrency(self) -> int:
        """Number of devices."""
        ...

    def upload(self, picture: Frame | Picture, device: int | None = None) -> Resident:
        """Put a frame on a device, given by its number."""
        ...

    def between(
        self,
        frames: Sequence[Resident],
        factor: int,
        batch: int = 1,
        device: int | None = None,
    ) -> Computation:
        """Start a computation on a device, given by its number."""
        ...


class Dispatched:
    """A network whose computations are started by threads of a pipeline, on its devices in turn."""

    def __init__(self, network: Spread, pipeline: Pipeline) -> None:
        self.config, self.factor, self.passes = network.config, network.factor, network.passes
        self.boundary: Boundary = network.boundary
        self._network, self._turn = network, 0
        numbers = range(network.concurrency)
        self._workers = [pipeline.worker(f"device {number}") for number in numbers]
        # A network on one device need not know numbers of devices.
        self._devices = [None] if len(numbers) == 1 else numbers

    @property
    def ahead(self) -> int:
        """Number of computations to start before the result of an earlier one is waited for."""
        return self._network.ahead

    def upload(self, picture: Frame | Picture) -> Resident:
        """Return a frame that every device uploads when it first computes with it."""
        # A frame that an earlier pass has made is on a device already.
        if isinstance(picture, Made):
            return picture.upload()
        return _Awaited(self._network, picture)

    def between(self, frames: Sequence[Resident], factor: int, batch: int = 1) -> Pending:
        """Let the next device compute the frames inside intervals; returns at once."""
        worker, device = self._workers[self._turn], self._devices[self._turn]
        self._turn = (self._turn + 1) % len(self._workers)

        def start() -> Computation:
            here = [frame.on(device) for frame in frames]
            where = () if device is None else (device,)
            return self._network.between(here, factor, batch, *where)

        return _Started(worker, start)


class _Awaited(Resident):
    """A frame on the host, with a copy on each device that has computed with it.

    A copy from another device would wait for the computations in that one's queue.
    """

    def __init__(self, network: Spread, picture: Frame | Picture) -> None:
        self._network, self._picture = network, picture
        self._copies: dict[int | None, Resident] = {}

    def on(self, device: int | None) -> Resident:
        """Return the copy on a device; only that device's thread asks for it."""
        if device not in self._copies:
            where = () if device is None else (device,)
            self._copies[device] = self._network.upload(self._picture, *where)
        return self._copies[device]

    @property
    def pixels(self) -> Array:
        """A copy for frames that are synthesised from this one."""
        return self._network.upload(self._picture).pixels

    @property
    def opaque(self) -> bool:
        """True if there is no transparency."""
        return self._network.upload(self._picture).opaque


class _Started(Pending):
    """A computation that the thread of a device starts."""

    def __init__(self, worker: Worker, start: Callable[[], Computation]) -> None:
        self._worker, self._start = worker, worker.submit(start)

    def send(self, conversion: Conversion | None) -> None:
        """Start copying the frames to the host; see :meth:`Computation.send`."""
        self._worker.submit(lambda: self._start.result().send(conversion))

    def settled(self) -> Computation:
        """Wait until the frames are computed; see :meth:`Computation.settled`."""
        return self._start.result().settled()
