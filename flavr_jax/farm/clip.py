# SPDX-License-Identifier: Apache-2.0
"""What head and workers tell each other about a clip."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

from flavr_jax.config import Precision
from flavr_jax.inference.options import Options, Tiles
from flavr_jax.inference.stream import Summary
from flavr_jax.inference.tiles import Tiling
from flavr_jax.timeline.keys import Link
from flavr_jax.timeline.schedule import Grid, Request
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.inputs import Input
from flavr_jax.video.frames import ClipInfo
from flavr_jax.video.journal.job import SEGMENT, Job

__all__ = ["Clip", "Plan", "Row", "Setup", "Stretch"]


@dataclasses.dataclass(frozen=True)
class Clip:
    """An input, its output, and how the one becomes the other.

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
        cpus: cores of a worker. On a CPU, the network's last bits depend on their number.
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
    """How all workers render a clip, as one of them found out.

    Attributes:
        facts: what the result depends on; every worker checks that they hold for it.
        info: properties of the output.
        grid: times at which the network makes frames.
        batch: intervals computed at a time.
        tiling: how windows are divided.
        margin: frames on either side of an interval that all passes together read, or more.
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A key without its pixels, and the output frames requested from its time on.

    Attributes:
        link: relation to the key before it.
        pts: time of its frame in the input, in seconds.
        requests: output frames until the next key's time, numbered from 1.
    """

    link: Link
    pts: Fraction
    requests: tuple[Request, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every frame of an output.

    Attributes:
        rows: the clip's keys.
        times: pts and duration of each output frame, in seconds.
        summary: counts of frames, cuts and repeats.
        damage: why the input could not be read completely; None if it could.
    """

    rows: list[Row]
    times: list[tuple[Fraction, Fraction]]
    summary: Summary
    damage: str | None = None


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Consecutive segments of an output that one worker renders.

    Attributes:
        first: number of the first segment, from 0.
        skipped: output frames that ``rows`` give before the first of the segments.
        rows: the keys that their frames are made from, with context; requests for frames of
            other segments are marked as done.
        times: pts and duration of each frame of the segments.
        last: whether they end with the output's last frame.
    """

    first: int
    skipped: int
    rows: list[Row]
    times: list[tuple[Fraction, Fraction]]
    last: bool
