# SPDX-License-Identifier: Apache-2.0
"""Choice of the frames to make. Nothing heavy is imported here, to keep ``--help`` quick."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import TYPE_CHECKING

from flavr_jax.config import Cut

if TYPE_CHECKING:
    from flavr_jax.timeline.schedule import OutputTiming

__all__ = ["Options"]


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
        batch: intervals computed at a time; more is faster on a large GPU and takes more memory.
    """

    factor: int | None = None
    fps: Fraction | None = None
    slow_motion: bool = False
    exact_times: bool = False
    largest_error: Fraction = Fraction(1, 2000)
    cut: Cut = "hold"
    dedup: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"`batch` is {self.batch}; it is 1 or more.")
        if self.largest_error < 0:
            raise ValueError(f"`largest_error` is {self.largest_error}; it is 0 or more.")

    @property
    def timing(self) -> OutputTiming:
        """Output rate and stretch that these options request.

        Raises:
            ValueError: both ``fps`` and ``factor`` set the rate, or the rate is impossible.
        """
        from flavr_jax.timeline.schedule import OutputTiming

        if None not in (self.fps, self.factor) and not self.slow_motion:
            raise ValueError(
                f"`fps` {self.fps} and `factor` {self.factor} both set the frame rate; leave one "
                "out, or ask for slow motion, which stretches time by the factor."
            )
        return OutputTiming(8 if self.factor is None else self.factor, self.fps, self.slow_motion)
