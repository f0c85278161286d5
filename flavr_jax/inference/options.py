# SPDX-License-Identifier: Apache-2.0
"""Choice of the frames to make and of the memory to use.

Nothing heavy is imported here, to keep ``--help`` quick.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from flavr_jax.config import Cut

if TYPE_CHECKING:
    from flavr_jax.timeline.clock import OutputTiming

__all__ = ["Options", "Resources", "Tiles", "bytes_of"]

Tiles: TypeAlias = Literal["auto", "exact", "fast", "off"]
"""Whether frames may be computed in stripes if memory is short.

``exact`` gives the pixels of whole frames. If even coarse feature maps of whole frames do not fit,
it takes several passes over the stripes; ``fast`` then takes a single one and estimates the gates.
``auto`` is exact as long as that takes no further passes, and fast after that. ``off`` never
divides frames.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which frames to make.

    Attributes:
        factor: multiply the frame rate by this: 2, 4 or 8, or 16 and more in several passes; 8 if
            neither factor nor fps is given.
        fps: constant output frame rate in frames per second, such as 60 or 60000/1001; use it
            instead of factor.
        slow_motion: keep the frame rate (or use fps), and play the clip slower by the factor.
        exact_times: with fps or dedup, frames may be due at times that one pass through the network
            cannot make. Use more passes until every frame is within largest_error of its time; by
            default the nearest time of one pass is shown.
        largest_error: with exact_times, how far off a frame may be, in seconds.
        cut: what is shown between the two frames at a cut: hold shows the nearer one, blend mixes
            them, ignore does not look for cuts.
        dedup: drop frames that repeat the one before and spread the motion evenly: for animation
            drawn on twos or threes, and for film shown at 30 or 60 frames per second.
        batch: intervals computed at a time; the program chooses by the size of the frames, and a
            library call without it uses 1.
    """

    factor: int | None = None
    fps: Fraction | None = None
    slow_motion: bool = False
    exact_times: bool = False
    largest_error: Fraction = Fraction(1, 2000)
    cut: Cut = "hold"
    dedup: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"`batch` is {self.batch}; it is 1 or more.")
        if self.largest_error < 0:
            raise ValueError(f"`largest_error` is {self.largest_error}; it is 0 or more.")

    @property
    def timing(self) -> OutputTiming:
        """Output rate and stretch that these options request.

        Raises:
            ValueError: both ``fps`` and ``factor`` set the rate, or the rate is impossible.
        """
        from flavr_jax.timeline.clock import OutputTiming

        if None not in (self.fps, self.factor) and not self.slow_motion:
            raise ValueError(
                f"`fps` {self.fps} and `factor` {self.factor} both set the frame rate; leave one "
                "out, or ask for slow motion, which stretches time by the factor."
            )
        return OutputTiming(8 if self.factor is None else self.factor, self.fps, self.slow_motion)


@dataclasses.dataclass(frozen=True)
class Resources:
    """Memory and devices to use.

    Attributes:
        devices: number of GPUs that compute, or all; the output does not depend on it.
        memory_limit: largest amount of memory to use on each device, such as 6GB or 500MB; by
            default what is free there, and on a CPU half of the free memory.
        tiles: how large frames are computed if memory is short: exact, in stripes with the pixels
            of whole frames; fast, in stripes with a small error if exact ones would take several
            passes; auto, exact if that needs a single pass, otherwise fast; off, only as a whole.
        dry_run: print what would be done, with an estimate of memory and time, and stop.
    """

    devices: str = "1"
    memory_limit: str | None = None
    tiles: Tiles = "auto"
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.devices != "all" and not re.fullmatch("[1-9][0-9]{0,3}", self.devices):
            raise ValueError(f"`devices` is {self.devices!r}; it is all, or a number from 1.")
        if self.memory_limit is not None:
            bytes_of(self.memory_limit)


def bytes_of(text: str) -> int:
    """Read an amount of memory such as 6GB (10⁹ bytes), 6GiB (2³⁰ bytes) or 500MB.

    Raises:
        ValueError: it is not one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])(i?)B?", text.strip(), re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise ValueError(f"`memory-limit` is {text!r}; write it like 6GB, 7.5GiB or 500MB.")
    power = {"m": 2, "g": 3}[found[2].lower()]
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
