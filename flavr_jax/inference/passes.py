# SPDX-License-Identifier: Apache-2.0
"""One pass of frames through the network: intervals that are wanted are filled, others are not.

A pass splits an interval evenly, say into eighths. What is wanted at finer times stays wanted of
one of the eighths, for the next pass to fill. So passes are chained, and each reads what the one
before made as if it were the clip.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
from jax import Array

from flavr_jax.config import ModelConfig
from flavr_jax.inference.windows import Boundary, extend
from flavr_jax.timeline.schedule import Request
from flavr_jax.typing import Frame, Frames
from flavr_jax.video.frames import TimedFrame

__all__ = ["Network", "Node", "fill"]

_MOST_WAITING = 8
"""Runs that wait for a computation before them; more would pile up where nothing else is wanted."""


@runtime_checkable
class Network(Protocol):
    """What a pass needs of an interpolator."""

    config: ModelConfig
    boundary: Boundary

    @property
    def factor(self) -> int:
        """Parts of an interval that one pass makes at most."""
        ...

    def passes(self, factor: int) -> list[int]:
        """The factors, each made in one pass, whose product is ``factor``."""
        ...

    def between(self, frames: Frames, factor: int) -> Array:
        """The frames inside every interval that has its context; may still be in computation."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A frame, and what is wanted of it and of the interval that begins with it.

    Attributes:
        frame: given, or made by an earlier pass; its own times mean nothing.
        wanted: at position 0 the frame itself, else a frame inside the interval.
        ends_shot: whether no frame after it may be seen together with it.
    """

    frame: TimedFrame
    wanted: Sequence[Request]
    ends_shot: bool = False


def fill(
    nodes: Iterable[Node], network: Network, factor: int, *, batch: int = 1, last: bool = True
) -> Iterator[Node]:
    """The nodes and, where something is wanted inside an interval, those that split it evenly.

    While a batch computes, the one before is handed out.

    Args:
        nodes: of a clip, in order.
        network: makes ``factor − 1`` frames an interval, of a window that is within a shot.
        factor: one of ``network.passes(…)``.
        batch: intervals computed at once.
        last: whether no finer pass follows, which would need context.
    """
    nodes = iter(nodes)
    started: deque[tuple[list[Node], Array | None]] = deque()
    computing = 0
    for first in nodes:
        rest = () if first.ends_shot else _until_cut(nodes)
        reach = Fraction(0) if last else _reach(network, factor)
        for run, window in _runs(itertools.chain([first], rest), network, factor, batch, reach):
            computation = network.between(np.stack(window), factor) if window else None
            started.append((run, computation))
            computing += computation is not None
            while computing > 1 or len(started) > _MOST_WAITING:
                run, computation = started.popleft()
                computing -= computation is not None
                yield from _finish(run, computation, factor)
    for run, computation in started:
        yield from _finish(run, computation, factor)


def _until_cut(nodes: Iterator[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.ends_shot:
            return


def _context(network: Network) -> tuple[int, int]:
    """Frames that a window has before its middle interval and after it."""
    before = (network.config.n_inputs - 2) // 2
    return before, network.config.n_inputs - 2 - before


def _reach(network: Network, factor: int) -> Fraction:
    """How far from a time, in intervals, the frames are that later passes may read for it.

    The next pass reads ``max(before, after)`` parts of an interval, the one after that as many
    parts of such a part: together less than twice as many, as a part is a half or less.
    """
    return Fraction(2 * max(_context(network)), factor)


def _runs(
    shot: Iterable[Node], network: Network, factor: int, batch: int, reach: Fraction
) -> Iterator[tuple[list[Node], list[Frame]]]:
    """A shot's nodes in runs, each with the frames that it takes to fill the intervals there.

    There are up to ``batch`` nodes in a run; a node whose interval stays as it is comes alone and
    without frames.
    """
    before, after = _context(network)
    around = math.ceil(reach)
    waiting: deque[Node] = deque()
    past: deque[Node] = deque(maxlen=around)

    def pixels() -> Iterator[Frame]:
        for node in shot:
            waiting.append(node)
            yield node.frame.pixels

    def take(count: int) -> list[Node]:
        run = [waiting.popleft() for _ in range(count)]
        past.extend(run)
        return run

    window: list[Frame] = []
    for frame in extend(pixels(), before, after, network.boundary):
        window.append(frame)
        intervals = len(window) - 1 - before - after
        if intervals < 1:
            continue
        nodes, index = [*past, *waiting], len(past) + intervals - 1
        close = range(max(0, index - around), min(len(nodes), index + around + 1))
        if not any(_needs(nodes[other], index - other, factor, reach) for other in close):
            if intervals > 1:
                yield take(intervals - 1), window[:-1]
            yield take(1), []
            window = window[intervals:]
        elif intervals == batch:
            yield take(batch), window
            window = window[batch:]
    if len(window) > 1 + before + after:
        yield take(len(window) - 1 - before - after), window
    for node in waiting:
        yield [node], []


def _needs(node: Node, ahead: int, factor: int, reach: Fraction) -> bool:
    """Whether what is wanted of a node needs the interval so many further ahead to be filled.

    Its own is, for any time inside it; one close by, as context, for times between its parts.
    """
    return any(
        (ahead == 0 and wish.position > 0)
        or ((wish.position * factor).denominator > 1 and -reach < wish.position - ahead < 1 + reach)
        for wish in node.wanted
    )


def _finish(run: list[Node], computation: Array | None, factor: int) -> Iterator[Node]:
    """The run with the frames inside its intervals, once they are computed."""
    if computation is None:
        yield from run
        return
    for node, between in zip(run, np.asarray(computation)):
        wanted: list[list[Request]] = [[] for _ in range(factor)]
        for wish in node.wanted:
            part, position = divmod(wish.position * factor, 1)
            wanted[part].append(dataclasses.replace(wish, position=position))
        yield Node(node.frame, wanted[0])
        for pixels, wishes in zip(between, wanted[1:]):
            yield Node(TimedFrame(pixels, Fraction(0), Fraction(0)), wishes)
