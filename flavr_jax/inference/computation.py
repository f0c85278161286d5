# SPDX-License-Identifier: Apache-2.0
"""Frames that a device may still be computing, and the check that all values are finite.

A network whose weights or sums overflow predicts NaN or infinity. Rounded to integers, those become
black or white pixels that cannot be told from real ones. The check therefore comes before rounding:
it runs on the device, in the same program as the network, and returns one bool per window.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, UInt8, UInt16

from flavr_jax.config import Precision

__all__ = ["Computation", "NonFiniteError", "cause_of"]

_CAUSES: dict[Precision, str] = {
    "fp16": "numbers in fp16 end at 65504. Use `precision` bf16 or fp32.",
    "bf16": "the network overflows in bf16. Use `precision` fp32 or another checkpoint.",
    "fp8": "the network overflows in fp8. Use `precision` fp32 or another checkpoint.",
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


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """The frames inside consecutive intervals; ``numpy.asarray`` waits for them.

    Attributes:
        frames: the frames, on the device.
        finite: for each interval, whether every value was finite before it was rounded.
        precision: what the network computes in, for the error message.
    """

    frames: (
        UInt8[Array, "intervals between height width channel"]
        | UInt16[Array, "intervals between height width channel"]
    )
    finite: Bool[Array, " intervals"]
    precision: Precision

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Return the frames on the host.

        Raises:
            NonFiniteError: the network predicted NaN or infinity in some interval.
        """
        frames, finite = jax.device_get((self.frames, self.finite))
        if not finite.all():
            interval = int(np.argmin(finite))
            raise NonFiniteError(f"interval {interval}", cause_of(self.precision), interval)
        return np.asarray(frames, dtype)


def cause_of(precision: Precision) -> str:
    """Return why a network of this precision predicts NaN or infinity, and the remedy."""
    return _CAUSES[precision]
