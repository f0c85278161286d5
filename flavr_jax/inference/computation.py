# SPDX-License-Identifier: Apache-2.0
"""Frames that a device may still be computing, and the check that all values are finite.

A network whose weights or sums overflow predicts NaN or infinity. Rounded to integers, those become
black or white pixels that cannot be told from real ones. The check therefore comes before rounding:
it runs on the device, in the same program as the network, and returns one bool per window.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, UInt8, UInt16

from flavr_jax.config import Precision
from flavr_jax.inference import downloads
from flavr_jax.typing import Frame
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.picture import Picture, Planar, Resident

__all__ = ["Computation", "Made", "NonFiniteError", "Pending", "cause_of"]

_CAUSES: dict[Precision, str] = {
    "fp16": "numbers in fp16 end at 65504. Use `precision` bf16 or fp32.",
    "bf16": "the network overflows in bf16. Use `precision` fp32 or another checkpoint.",
    "fp8": "the network overflows in fp8. Use `precision` fp32 or another checkpoint.",
    "int8": "the network overflows in int8. Use `precision` fp32 or another checkpoint.",
    "fp32": "the network overflows in fp32. Use another checkpoint.",
}


class NonFiniteError(ValueError):
    """The network predicted NaN or infinity.

    Attributes:
        cause: the reason, and what the user can do about it.
        interval: the first interval of the computation in which it happened.
    """

    def __init__(self, subject: str, cause: str, interval: int = 0) -> None:
        super().__init__(f"{subject} is NaN or infinite: {cause}")
        self.cause = cause
        self.interval = interval


class Pending(abc.ABC):
    """A computation that may still have to be started."""

    @abc.abstractmethod
    def send(self, conversion: Conversion | None) -> None:
        """Start copying the frames to the host when they are computed; returns at once.

        Args:
            conversion: to planes, made on the device before the copy; None copies RGB.
        """

    @abc.abstractmethod
    def settled(self) -> Computation:
        """Wait until the frames are computed, again if the device ran out of memory.

        Raises:
            NonFiniteError: the network predicted NaN or infinity in some interval.
            MemoryError: the device has too little memory.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Computation(Pending):
    """The frames inside consecutive intervals, which a device may still be computing.

    Attributes:
        frames: the frames, on the device.
        finite: for each interval, whether every value was finite before it was rounded.
        precision: what the network computes in, for the error message.
        opaque: False if some alpha is not opaque.
        count: number of intervals that were asked for: the first ones of ``frames``; None for all.
            The others only fill up the batch. They are not cut off on the device, because it would
            compile a program for each number of them.
        again: computes the same frames with less memory, given the error that the device raised.
    """

    frames: (
        UInt8[Array, "intervals between height width channel"]
        | UInt16[Array, "intervals between height width channel"]
    )
    finite: Bool[Array, " intervals"]
    precision: Precision
    opaque: bool = True
    count: int | None = None
    again: Callable[[Exception], Computation] | None = None

    def settled(self) -> Computation:
        """Wait until the frames are computed; see :meth:`Pending.settled`."""
        try:
            self.wait()
        except jax.errors.JaxRuntimeError as error:
            if self.again is None:
                raise
            # Less memory may still be too much; `again` gives up with a MemoryError in the end.
            return self.again(error).settled()
        return self

    def send(self, conversion: Conversion | None) -> None:
        """Start copying the frames to the host; see :meth:`Pending.send`."""
        made = self.frames if conversion is None else conversion.encode(self.frames)
        self._sent[conversion] = downloads.started(made)

    def wait(self) -> None:
        """Wait until the frames are computed.

        Raises:
            NonFiniteError: the network predicted NaN or infinity in some interval.
        """
        # A program's results are ready together, and this one is a byte for each interval.
        finite = np.asarray(self.finite)[: self.count]
        if not finite.all():
            interval = int(np.argmin(finite))
            raise NonFiniteError(f"interval {interval}", cause_of(self.precision), interval)

    def fetched(self, conversion: Conversion | None) -> np.ndarray:
        """Return ``frames`` on the host, as RGB or as the samples of their planes."""
        # Called for each frame. Hashing the conversion takes most of a look-up, so look up once.
        found = self._fetched.get(conversion)
        if found is None:
            if conversion not in self._sent:
                self.send(conversion)
            found = self._fetched[conversion] = downloads.finished(self._sent[conversion])
        return found

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Return the frames that were asked for, on the host.

        Raises:
            NonFiniteError: the network predicted NaN or infinity in some interval.
        """
        return np.asarray(self.settled().fetched(None)[: self.count], dtype)

    @functools.cached_property
    def _sent(self) -> dict[Conversion | None, Array]:
        """The copies that were started."""
        return {}

    @functools.cached_property
    def _fetched(self) -> dict[Conversion | None, np.ndarray]:
        """The copies that were waited for; each frame is a part of one."""
        return {}


class Made(Picture):
    """One frame of a computation."""

    def __init__(self, computation: Computation, interval: int, part: int) -> None:
        self._computation, self._place = computation, (interval, part)

    @property
    def pixels(self) -> Frame:
        """RGB or RGBA on the host; waits for the computation."""
        return self._computation.fetched(None)[self._place]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of ``pixels``."""
        _, _, height, width, channels = self._computation.frames.shape
        return height, width, channels

    def upload(self) -> Resident:
        """Return the frame where it is, on the device."""
        return Resident(_frame(self._computation.frames, *self._place), self._computation.opaque)

    def fetched(self, conversion: Conversion | None) -> Frame | Planar:
        """Return the frame on the host, independent of the computation: RGB, or planes."""
        values = self._computation.fetched(conversion)[self._place]
        # The samples of all planes are one flat array, which does not tell the size of the frame.
        return values if conversion is None else Planar(values, conversion, self.shape[:2])


@jax.jit  # indexing outside of a program takes ten times longer
def _frame(frames: Array, interval: int | Array, part: int | Array) -> Array:
    return frames[interval, part]


def cause_of(precision: Precision) -> str:
    """Return why a network of this precision predicts NaN or infinity, and the remedy."""
    return _CAUSES[precision]
