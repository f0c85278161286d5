# SPDX-License-Identifier: Apache-2.0
"""One pass of frames through the network, which fills the intervals where a frame is requested.

A pass splits an interval evenly, for instance into eighths. If a frame is requested at a finer
time, that time lies inside one of the eighths, which the next pass fills. Passes are therefore
chained: each reads the output of the one before as if it were the clip.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol, runtime_checkable

from flavr_jax.config import ModelConfig
from flavr_jax.inference.computation import Made, NonFiniteError, Pending
from flavr_jax.inference.windows import Boundary, Located, extend
from flavr_jax.timeline.schedule import Request
from flavr_jax.typing import Frame
from flavr_jax.video.frames import Picture, TimedFrame
from flavr_jax.video.pixels.conversion import Conversion
from flavr_jax.video.pixels.picture import Resident

__all__ = ["AtOnce", "Network", "Node", "fill"]

_ZERO = Fraction(0)

_MOST_WAITING = 8
"""Largest number of groups that may be queued behind a computation.

Without a limit, a long stretch without requests would be read into memory before the result of the
computation is fetched.
"""


@runtime_checkable
class Network(Protocol):
    """The part of an interpolator that a pass uses."""

    config: ModelConfig
    boundary: Boundary

    @property
    def ahead(self) -> int:
        """Number of computations to start before the result of an earlier one is waited for."""
        ...

    @property
    def factor(self) -> int:
        """Largest number of parts that one pass can split an interval into."""
        ...

    def passes(self, factor: int) -> list[int]:
        """Split ``factor`` into factors that one pass each can make."""
        ...

    def upload(self, picture: Frame | Picture) -> Resident:
        """Put a frame where ``between`` reads it; called once for each frame of a pass."""
        ...

    def between(self, frames: Sequence[Resident], factor: int, batch: int = 1) -> Pending:
        """Start computing the frames inside every interval that has its full context.

        Args:
            frames: ``intervals + n_inputs − 1`` consecutive frames, from ``upload``.
            factor: one of ``passes``; ``factor − 1`` frames are made per interval.
            batch: number of intervals at a time that other computations of this pass have; if this
                one has fewer, it may be filled up.
        """
        ...


class AtOnce:
    """A network that begins no interval before the last one is ready, for the least latency."""

    ahead = 0

    def __init__(self, network: Network) -> None:
        self.config, self.factor = network.config, network.factor
        self.boundary: Boundary = network.boundary
        self.passes, self.upload, self.between = network.passes, network.upload, network.between


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A frame, and the requests for it and for the interval that begins with it.

    Attributes:
        frame: a frame of the input, or one made by an earlier pass; its times are not used.
        wanted: the requests; those at position 0 are for the frame itself, others for the interval.
        ends_shot: True if no window may hold both this frame and the next.
        located: the frame where the network reads it, if a pass before this one has read it.
    """

    frame: TimedFrame
    wanted: Sequence[Request]
    ends_shot: bool = False
    located: Located | None = None


@dataclasses.dataclass(frozen=True)
class _Interval:
    """The interval that begins with a node.

    Attributes:
        node: its first frame.
        window: the frames that the network reads for it; empty after a shot's last frame.
        needed: True if the interval has to be filled.
        due: True if it has to be filled for frames that no earlier run has made.
    """

    node: Node
    window: tuple[Located, ...]
    needed: bool
    due: bool


@dataclasses.dataclass(frozen=True)
class _Group:
    """Consecutive nodes whose intervals are computed together.

    Attributes:
        nodes: in order.
        frames: the frames that the network reads to fill all their intervals; empty to leave the
            intervals unfilled.
        due: False if copies of the first frame are to fill them, as nothing reads the result. Such
            groups exist so that a resumed run computes the same groups as an uninterrupted one.
        batch: the largest number of intervals of the groups around it, if this group is shorter
            only because its shot ends.
    """

    nodes: list[Node]
    frames: list[Located]
    due: bool = True
    batch: int = 1


def fill(
    nodes: Iterable[Node],
    network: Network,
    factor: int,
    *,
    batch: int = 1,
    last: bool = True,
    conversion: Conversion | None = None,
) -> Iterator[Node]:
    """Yield the nodes and, inside each interval that needs it, new nodes that split it evenly.

    While a batch is being computed, the nodes of the batch before it are yielded.

    Args:
        nodes: of a clip, in order.
        network: makes ``factor − 1`` frames per interval; a window never leaves its shot.
        factor: one of ``network.passes(…)``.
        batch: intervals to compute at once.
        last: False if a finer pass follows, which reads frames of this one as context.
        conversion: to the planes that made frames are wanted in; None for RGB.

    Raises:
        NonFiniteError: the network predicted NaN or infinity; the message names the output frame.
    """
    nodes = iter(nodes)
    started: deque[tuple[_Group, Pending | None]] = deque()
    computing = 0
    for first in nodes:
        # One shot at a time, so that no window crosses a cut.
        rest = () if first.ends_shot else _until_cut(nodes)
        reach = Fraction(0) if last else _reach(network, factor)
        intervals = _intervals(itertools.chain([first], rest), network, factor, reach)
        for group in _groups(intervals, batch):
            compute = group.frames and group.due
            made = _start(group, network, factor, conversion) if compute else None
            started.append((group, made))
            computing += made is not None
            # Devices have computations to run while the host encodes the one before them.
            while computing > network.ahead or len(started) > _MOST_WAITING:
                group, made = started.popleft()
                computing -= made is not None
                yield from _finish(group, made, factor)
    # The clip has ended; finish what is still in computation.
    for group, made in started:
        yield from _finish(group, made, factor)


def _start(group: _Group, network: Network, factor: int, conversion: Conversion | None) -> Pending:
    """Start computing a group's frames, and copying them to the host if any is to be shown."""
    # Frames that are only context of later passes stay on the device.
    made = network.between([frame.resident for frame in group.frames], factor, group.batch)
    wishes = (wish.position * factor for node in group.nodes for wish in node.wanted)
    if any(position > 0 and position.denominator == 1 for position in wishes):
        made.send(conversion)
    return made


def _until_cut(nodes: Iterator[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.ends_shot:
            return


def _context(network: Network) -> tuple[int, int]:
    """Return how many frames a window has before its middle interval, and after it."""
    before = (network.config.n_inputs - 2) // 2
    return before, network.config.n_inputs - 2 - before


def _reach(network: Network, factor: int) -> Fraction:
    """Return how far from a requested time, in intervals, later passes may read frames.

    The next pass reads as far as ``max(before, after)`` parts of an interval, and each further pass
    as many parts of a part. A part is at most half an interval, so all passes together read less
    than twice as far as the next one.
    """
    return Fraction(2 * max(_context(network)), factor)


def _located(shot: Iterable[Node], network: Network, in_reach: deque[Node]) -> Iterator[Located]:
    """Yield the frame of each node where the network reads it; append the node to ``in_reach``."""
    for node in shot:
        place = node.located or Located(functools.partial(network.upload, node.frame.picture))
        in_reach.append(dataclasses.replace(node, located=place))
        yield place


def _intervals(
    shot: Iterable[Node], network: Network, factor: int, reach: Fraction
) -> Iterator[_Interval]:
    """Yield the interval after each node of a shot; the last node has an empty one."""
    before, after = _context(network)
    around = math.ceil(reach)
    in_reach: deque[Node] = (
        deque()
    )  # from up to `around` nodes before the interval to the last read
    index = 0  # index in `in_reach` of the node that begins the interval

    window: deque[Located] = deque(maxlen=before + 2 + after)
    for frame in extend(_located(shot, network, in_reach), before, after, network.boundary):
        window.append(frame)
        if len(window) < before + 2 + after:
            continue
        # `extend` reads ahead for the window, so the nodes that may need this one are here already.
        neighbours = range(max(0, index - around), min(len(in_reach), index + around + 1))
        wishes = [(wish, index - other) for other in neighbours for wish in in_reach[other].wanted]
        needing = [wish for wish, ahead in wishes if _needs(wish, ahead, factor, reach)]
        due = not all(wish.done for wish in needing)
        yield _Interval(in_reach[index], tuple(window), bool(needing), due)
        if index == around:
            in_reach.popleft()
        else:
            index += 1
    yield _Interval(in_reach[index], (), needed=False, due=False)


def _needs(wish: Request, ahead: int, factor: int, reach: Fraction) -> bool:
    """Return whether a node's request needs the interval ``ahead`` nodes after it to be filled.

    A request inside the interval needs it. So does a nearby request whose time is not on this
    pass's grid: the later passes that make it read this interval's frames as context.
    """
    if ahead == 0 and wish.position.numerator:
        return True
    between = (wish.position * factor).denominator > 1
    return between and -reach < wish.position - ahead < 1 + reach


def _groups(intervals: Iterable[_Interval], batch: int) -> Iterator[_Group]:
    """Group up to ``batch`` consecutive intervals that are needed; others get a group each."""
    needed: list[_Interval] = []
    for interval in intervals:
        if interval.needed:
            needed.append(interval)
        if needed and (len(needed) == batch or not interval.needed):
            # A shot ends only once, so a program for fewer intervals would not pay off. Where times
            # are too fine for this pass, groups are often short.
            ends_shot = not interval.window
            yield _group_of(needed, batch if ends_shot else 1)
            needed = []
        if not interval.needed:
            yield _Group([interval.node], [])
    # The last interval of a shot is never needed, so none is left over here.


def _group_of(intervals: list[_Interval], batch: int) -> _Group:
    """Return one group for consecutive intervals; each adds one frame to the window before."""
    frames = [*intervals[0].window, *(each.window[-1] for each in intervals[1:])]
    due = any(each.due for each in intervals)
    return _Group([each.node for each in intervals], frames, due, batch)


def _finish(group: _Group, started: Pending | None, factor: int) -> Iterator[Node]:
    """Wait for a group's computation, and yield its nodes with those inside their intervals."""
    if not group.frames:
        yield from group.nodes
        return
    try:
        made = None if started is None else started.settled()
    except NonFiniteError as error:
        raise NonFiniteError(_name_of_frame(group, error.interval), error.cause) from None
    for interval, node in enumerate(group.nodes):
        wanted: list[list[Request]] = [[] for _ in range(factor)]
        for wish in node.wanted:
            # Split the position in the interval into the part's number and the position in it.
            parts, whole = wish.position.numerator * factor, wish.position.denominator
            part, rest = divmod(parts, whole)
            wanted[part].append(wish._replace(position=Fraction(rest, whole) if rest else _ZERO))
        # Uploaded already: later passes read the same copy on the device.
        yield Node(node.frame, wanted[0], located=node.located)
        for part, wishes in enumerate(wanted[1:]):
            # A made frame has no times of its own; the requests carry them.
            picture = node.frame.picture if made is None else Made(made, interval, part)
            yield Node(TimedFrame(picture, _ZERO, _ZERO), wishes)


def _name_of_frame(group: _Group, interval: int) -> str:
    """Describe the first output frame that is requested inside this interval or a later one."""
    for node in group.nodes[interval:]:
        for wish in node.wanted:
            if wish.position > 0:
                return f"frame {wish.number} of the output, at {float(wish.pts):.3f} s,"
    return "a frame that later passes need"
