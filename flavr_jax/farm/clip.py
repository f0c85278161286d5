# SPDX-License-Identifier: Apache-2.0
"""Messages between head and workers about a clip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from flavr_jax.config import Precision
from flavr_jax.farm import SEGMENT
from flavr_jax.inference.options import Options, Tiles
from flavr_jax.inference.stream import Summary
from flavr_jax.inference.tiles import Tiling
from flavr_jax.reading.inputs import Input
from flavr_jax.timeline.keys import Link
from flavr_jax.timeline.schedule import Grid
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.journal.job import Job

__all__ = ["Clip", "Fractions", "Plan", "Setup", "Stretch", "Times", "Wishes"]


@dataclasses.dataclass(frozen=True)
class Clip:
    """An input, its output, and the options for rendering it.

    Attributes:
        path: the input.
        output: name of the output.
        motion: frames to make.
        source: part of the input to read.
        encoding: compression of the output.
        checkpoint: directory of the network; None for the bundled one.
        precision: number format that the network computes in.
        memory_limit: largest amount of memory to use on a device; None for what is free.
        tiles: how large frames are computed if memory is short.
        segment: frames that are encoded together.
        overwrite: whether the output may exist.
        cpus: cores of a worker. On a CPU, the last bits of the network's frames depend on them.
    """

    path: Path
    output: str
    motion: Options = Options()
    source: Input = Input()  # noqa: RUF009
    encoding: Encoding = Encoding()
    checkpoint: Path | None = None
    precision: Precision = "auto"
    memory_limit: str | None = None
    tiles: Tiles = "auto"
    segment: int = SEGMENT
    overwrite: bool = False
    cpus: int = 1


@dataclasses.dataclass(frozen=True)
class Setup:
    """Settings with which all workers render a clip; one worker determines them.

    Attributes:
        facts: everything that the result depends on; each worker compares them with its own.
        info: properties of the output.
        grid: times at which the network makes frames.
        batch: intervals computed at a time.
        tiling: how windows are divided.
        margin: upper bound for the frames on either side of an interval that the network reads.
        splittable: whether several workers can render the clip.
    """

    facts: dict[str, str]
    info: ClipInfo
    grid: Grid
    batch: int
    tiling: Tiling
    margin: int
    splittable: bool

    def job(self, clip: Clip) -> Job:
        """Return the job that the clip's segments belong to."""
        return Job(self.facts, clip.segment)


class Fractions:
    """A list of fractions with a common denominator.

    It is pickled many times faster than a list of ``Fraction``; a head that serves thousands of
    workers spends most of its time on messages.
    """

    __slots__ = ("denominator", "numerators")

    def __init__(self, numerators: list[int], denominator: int) -> None:
        self.numerators, self.denominator = numerators, denominator

    @classmethod
    def of(cls, values: Sequence[Fraction]) -> Fractions:
        """Return a list of values."""
        denominator = math.lcm(*(value.denominator for value in values))
        return cls([int(value * denominator) for value in values], denominator)

    def __len__(self) -> int:
        return len(self.numerators)

    def __iter__(self) -> Iterator[Fraction]:
        return (Fraction(numerator, self.denominator) for numerator in self.numerators)

    def part(self, start: int, stop: int) -> Fractions:
        """Return a slice of the list."""
        return Fractions(self.numerators[start:stop], self.denominator)


@dataclasses.dataclass(frozen=True)
class Wishes:
    """Keys without their pixels, and the requests for output frames from each key on.

    Attributes:
        links: relation of each key to the one before it.
        pts: times of the keys' frames in the input, in seconds.
        starts: index of the first request of each key, and the number of all requests.
        positions: position of each request between two keys, from 0 to 1.
        counts: number of output frames of each request.
    """

    links: list[Link]
    pts: Fractions
    starts: list[int]
    positions: Fractions
    counts: list[int]

    def __len__(self) -> int:
        return len(self.links)

    def part(self, start: int, stop: int) -> Wishes:
        """Return the keys from one number to another."""
        first, last = self.starts[start], self.starts[stop]
        return Wishes(
            self.links[start:stop],
            self.pts.part(start, stop),
            [index - first for index in self.starts[start : stop + 1]],
            self.positions.part(first, last),
            self.counts[first:last],
        )


@dataclasses.dataclass(frozen=True)
class Times:
    """Times and durations of consecutive output frames, in seconds."""

    pts: Fractions
    durations: Fractions

    def __len__(self) -> int:
        return len(self.pts)

    def __iter__(self) -> Iterator[tuple[Fraction, Fraction]]:
        return zip(self.pts, self.durations)

    def part(self, start: int, stop: int) -> Times:
        """Return the frames from one number to another."""
        return Times(self.pts.part(start, stop), self.durations.part(start, stop))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every frame of an output.

    Attributes:
        wishes: the clip's keys with the requests for them.
        times: times of all output frames.
        summary: counts of frames, cuts and repeats.
        damage: why the input could not be read completely; None if it could.
    """

    wishes: Wishes
    times: Times
    summary: Summary
    damage: str | None = None


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Consecutive segments of an output that one worker renders.

    Attributes:
        first: number of the first segment, from 0.
        skipped: number of output frames that ``wishes`` has before the first segment.
        wishes: keys from which the segments' frames are made, with context.
        times: times of the segments' frames.
        last: whether the stretch ends with the output's last frame.
    """

    first: int
    skipped: int
    wishes: Wishes
    times: Times
    last: bool
