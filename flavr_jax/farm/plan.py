# SPDX-License-Identifier: Apache-2.0
"""Division of a clip into stretches that workers render independently.

Cuts are found once, in a pass over the whole clip, since whether there is one depends on frames
around it. A stretch begins where a run over the whole clip would begin a batch of intervals: at a
cut or a whole number of batches after it. The network then computes the same batches as that run,
and its frames are the same to the last bit.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from flavr_jax.farm.clip import Clip, Plan, Row, Setup, Stretch
from flavr_jax.inference import stream
from flavr_jax.timeline import keys, schedule
from flavr_jax.timeline.schedule import Request

__all__ = ["scan", "stretches"]


def scan(clip: Clip, setup: Setup) -> Plan:
    """Decode a clip, find its cuts and repeats, and list every frame of the output."""
    source, motion = clip.source.open(clip.path), clip.motion
    found = keys.find_keys(source, cuts=motion.cut != "ignore", repeats=motion.dedup)
    clock, summary = schedule.Clock(motion.timing), stream.Summary()
    planned = schedule.schedule(found, clock, setup.grid, cut=motion.cut)
    rows = [
        Row(key.link, key.frame.pts, tuple(requests))
        for key, requests in stream.counted(planned, summary)
    ]
    wishes = (wish for row in rows for request in row.requests for wish in request.each())
    times = [(wish.pts, wish.duration) for wish in schedule.ending_at(clock, wishes)]
    summary.frames_out = len(times)
    return Plan(rows, times, summary, source.damage)


def stretches(
    clip: Clip, setup: Setup, plan: Plan, missing: Sequence[int], most: int
) -> Iterator[Stretch]:
    """Yield stretches that cover the missing segments.

    Args:
        clip: the clip.
        setup: how it is rendered.
        plan: its frames.
        missing: numbers of the segments, increasing.
        most: segments in a stretch.
    """
    # Requests of a row are numbered; so is the first frame after each row.
    ends = [0]
    for row in plan.rows:
        ends.append(ends[-1] + sum(request.count for request in row.requests))
    cuts = [number for number, row in enumerate(plan.rows) if row.link == "cut"]
    start = shot = 0
    for run in _runs(missing, most):
        first, end = run[0] * clip.segment, min((run[-1] + 1) * clip.segment, len(plan.times))
        while ends[start + 1] <= first:
            start += 1
        stop = start
        while ends[stop + 1] < end:
            stop += 1
        while shot + 1 < len(cuts) and cuts[shot + 1] <= start:
            shot += 1
        later = cuts[bisect.bisect_right(cuts, stop) :]
        begin, close = _with_context(clip, setup, cuts[shot], start, stop)
        if later:
            close = min(close, later[0] + 1)  # a blend at the cut needs the key after it
        rows = [_outside_done(row, first, end) for row in plan.rows[begin:close]]
        last = end == len(plan.times)
        yield Stretch(run[0], first - ends[begin], rows, plan.times[first:end], last)


def _with_context(clip: Clip, setup: Setup, shot: int, start: int, stop: int) -> tuple[int, int]:
    """Return the keys from and before which a stretch is computed.

    Args:
        clip: the clip.
        setup: how it is rendered.
        shot: the first key of the shot in which the stretch begins.
        start: the key from which its first frame is made.
        stop: the key from which its last frame is made.
    """
    if clip.motion.fps is not None or clip.motion.dedup:
        # Intervals without a request end a batch, so batches are known from the shot's start on.
        return shot, stop + _FAR
    batches = max(0, start - shot - setup.margin) // setup.batch
    # The last batch is completed; the worker stops before it computes what follows.
    return shot + batches * setup.batch, stop + setup.margin + 2 * setup.batch


_FAR = 1000  # keys; more than any batch and margin


def _runs(numbers: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield consecutive numbers together, up to ``most``."""
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        for first in range(0, len(run), most):
            yield run[first : first + most]


def _outside_done(row: Row, first: int, end: int) -> Row:
    """Return a row whose requests for frames outside of ``first`` to ``end`` count as done."""

    def marked(request: Request) -> Request:
        number = request.number - 1
        done = number + request.count <= first or number >= end
        return dataclasses.replace(request, done=done)

    return dataclasses.replace(row, requests=tuple(map(marked, row.requests)))
