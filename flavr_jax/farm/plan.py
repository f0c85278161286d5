# SPDX-License-Identifier: Apache-2.0
"""Division of a clip into stretches that workers render independently.

Cuts are found once, in a pass over the whole clip, because a cut is recognised by comparison with
the frames around it. A stretch begins where a run over the whole clip would begin a batch of
intervals: at a cut, or a whole number of batches after it. The network then computes the same
batches as that run, and its frames are the same to the last bit.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from flavr_jax.farm.clip import Clip, Fractions, Plan, Setup, Stretch, Times, Wishes
from flavr_jax.inference import stream
from flavr_jax.timeline import keys, schedule
from flavr_jax.timeline.clock import Clock
from flavr_jax.timeline.keys import Link
from flavr_jax.timeline.schedule import Request

__all__ = ["longest", "rows", "scan", "stretches"]

_FAR = 1000  # keys; more than any batch and margin
_USUAL, _PER_WORKER = 8, 4
_BATCHES = 32  # in a stretch; neighbouring stretches may compute the batches at its ends too


def scan(clip: Clip, setup: Setup) -> Plan:
    """Decode a clip, find its cuts and repeats, and list every frame of the output."""
    source, motion = clip.source.open(clip.path), clip.motion
    found = keys.find_keys(source, cuts=motion.cut != "ignore", repeats=motion.dedup)
    clock, summary = Clock(motion.timing), stream.Summary()
    planned = schedule.schedule(found, clock, setup.grid, cut=motion.cut)
    links, pts, starts, requests = [], [], [0], []
    for key, wanted in stream.counted(planned, summary):
        links.append(key.link)
        pts.append(key.frame.pts)
        requests += wanted
        starts.append(len(requests))
    each = (wish for request in requests for wish in request.each())
    shown = list(schedule.ending_at(clock, each))
    summary.frames_out = len(shown)
    wishes = Wishes(
        links,
        Fractions.of(pts),
        starts,
        Fractions.of([request.position for request in requests]),
        [request.count for request in requests],
    )
    times = Times(
        Fractions.of([wish.pts for wish in shown]), Fractions.of([wish.duration for wish in shown])
    )
    return Plan(wishes, times, summary, source.damage)


def longest(clip: Clip, setup: Setup, plan: Plan, missing: int, workers: int) -> int:
    """Return how many segments a worker should render at a time.

    Long stretches overlap less; short ones lose less work with a worker. There should be several
    stretches for each worker, so that no worker is idle at the end.

    Args:
        clip: the clip.
        setup: how it is rendered.
        plan: its frames.
        missing: number of segments to render.
        workers: number of workers.
    """
    frames = _BATCHES * setup.batch * len(plan.times) / max(1, len(plan.wishes))
    most = max(_USUAL, math.ceil(frames / clip.segment))
    return min(max(1, missing // (_PER_WORKER * workers)), most)


def stretches(
    clip: Clip, setup: Setup, plan: Plan, missing: Sequence[int], most: int
) -> Iterator[Stretch]:
    """Yield stretches that cover the missing segments.

    Args:
        clip: the clip.
        setup: how it is rendered.
        plan: its frames.
        missing: numbers of the segments, increasing.
        most: largest number of segments in a stretch.
    """
    wishes = plan.wishes
    numbers = [0, *itertools.accumulate(wishes.counts)]
    ends = [numbers[start] for start in wishes.starts]  # output frames before each key
    cuts = [number for number, link in enumerate(wishes.links) if link == "cut"]
    start = shot = 0
    # Segments increase, so all positions only move forwards, and planning takes linear time.
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
        needed = wishes.part(begin, min(close, len(wishes)))
        last = end == len(plan.times)
        yield Stretch(run[0], first - ends[begin], needed, plan.times.part(first, end), last)


def _with_context(clip: Clip, setup: Setup, shot: int, start: int, stop: int) -> tuple[int, int]:
    """Return the first key that a stretch needs, and the key after the last one.

    Args:
        clip: the clip.
        setup: how it is rendered.
        shot: the first key of the shot in which the stretch begins.
        start: the key from which its first frame is made.
        stop: the key from which its last frame is made.
    """
    if clip.motion.fps is not None or clip.motion.dedup:
        # An interval without requests ends a batch, so batches can only be counted from the
        # beginning of the shot.
        return shot, stop + _FAR
    batches = max(0, start - shot - setup.margin) // setup.batch
    # The worker needs the keys of its whole last batch, and stops after it.
    return shot + batches * setup.batch, stop + setup.margin + 2 * setup.batch


def _runs(numbers: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield groups of consecutive numbers, at most ``most`` in a group."""
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        for first in range(0, len(run), most):
            yield run[first : first + most]


def rows(stretch: Stretch) -> Iterator[tuple[Link, Fraction, list[Request]]]:
    """Yield the link, the pts and the requests of each key of a stretch.

    Requests for frames of other segments are marked as done, so that the network does not compute
    them.
    """
    wishes = stretch.wishes
    shown, number = list(stretch.times.pts), -stretch.skipped
    requests: list[Request] = []
    for position, count in zip(wishes.positions, wishes.counts):
        done = number + count <= 0 or number >= len(shown)
        pts = Fraction(0) if done else shown[max(0, number)]
        requests.append(
            Request(position, pts, Fraction(0), count=count, number=max(0, number), done=done)
        )
        number += count
    for index, (link, pts) in enumerate(zip(wishes.links, wishes.pts)):
        yield link, pts, requests[wishes.starts[index] : wishes.starts[index + 1]]
