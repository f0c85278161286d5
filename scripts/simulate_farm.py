# SPDX-License-Identifier: Apache-2.0
"""Simulate a large `flavr farm`, to find out when the head, the storage or the GPUs are the limit.

This is a discrete-event simulation (simpy) of the farm's steps, with measured and assumed times.
It prints a line for each number of GPUs; `--plot` draws the plot of docs/cluster.md.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import simpy

from flavr_jax import cli
from flavr_jax.partial import written_whole


@dataclass(frozen=True)
class Times:
    """Times of steps and sizes of frames; docs/cluster.md says which were measured."""

    head: float = 0.0007
    """Seconds that the head takes for a task."""
    prepare: float = 0.03
    """Seconds for preparing a clip by a worker that has loaded the network."""
    scanned: float = 200.0
    """Input frames per second that one core decodes and searches for cuts."""
    rendered: float = 193.0
    """Output frames per second of a worker, with encoding."""
    joined: float = 20000.0
    """Output frames per second that one core joins if the storage is fast."""
    opened: float = 0.5
    """Seconds for decoding the 2 seconds of the clip before the first frame of a task."""
    frame_in: float = 26e3
    """Bytes of an input frame."""
    frame_out: float = 8e3
    """Bytes of an output frame."""


@dataclass(frozen=True)
class Options:
    """Simulate a farm that renders clips at 8 times the frame rate.

    For example:

        --measure                        the head's time for a task, on this machine
        --gpus 10000 --clips 1000000     one farm
        --gpus 100 1000 --plot farm.png  two sizes, and a plot
    """

    gpus: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    """Numbers of GPUs to simulate."""
    clips: int | None = None
    """Number of clips; by default 20 for each GPU."""
    seconds: float = 30.0
    """Mean duration of a clip, which is distributed exponentially, at 24 frames per second."""
    heads: int = 1
    """Number of farms, each with a head and a share of the clips and GPUs."""
    longest: int = 8
    """Most segments that a worker renders at a time."""
    bandwidth: float = 20e9
    """Bytes per second of the storage, for all machines together."""
    operations: float = 20e3
    """Files that the storage opens, closes, syncs or renames per second."""
    times: Times = field(default_factory=Times)
    """Times of steps and sizes of frames."""
    seed: int = 0
    """Seed of the clips' durations."""
    plot: Path | None = None
    """Image to write."""
    measure: bool = False
    """Only measure the head's time for a task with Ray on this machine."""

    def __post_init__(self) -> None:
        for name in ("seconds", "heads", "longest", "bandwidth", "operations"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it is more than 0.")
        if not self.gpus or min(self.gpus) < self.heads:
            raise ValueError(f"`gpus` is {self.gpus}; give each head at least one.")


SEGMENT, FACTOR, RATE = 240, 8, 24
_OPERATIONS = {"prepare": 2, "scan": 2, "render": 2, "join": 6}
_PER_SEGMENT = 4  # create, sync, rename, sync the folder


@dataclass(frozen=True)
class Result:
    """What a simulated farm achieved.

    Attributes:
        gpus: number of GPUs.
        seconds: until the last clip was finished.
        clips: per second.
        frames: of the output, per second.
        busy: share of the time in which the GPUs, the heads, and the storage's bandwidth and
            operations were in use.
    """

    gpus: int
    seconds: float
    clips: float
    frames: float
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        """Return the part that was in use most of the time."""
        return max(self.busy, key=self.busy.__getitem__)


class Server:
    """A resource that serves requests one after the other, in the order of arrival."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env, self.free, self.busy = env, 0.0, 0.0

    def serve(self, seconds: float) -> Any:
        """Return the event that a request has been served."""
        self.free = max(self.free, self.env.now) + seconds
        self.busy += seconds
        return self.env.timeout(self.free - self.env.now)


class Clip:
    """State of a clip: its step, frames to make, and stretches that are not finished."""

    __slots__ = ("frames", "left", "step", "stretches")

    def __init__(self, frames: int) -> None:
        self.frames, self.step = frames, "prepare"
        self.stretches: deque[int] = deque()
        self.left = 0


class Farm:
    """A head with its share of GPUs and clips; the storage is shared with other farms.

    GPUs run the steps that need the network; a spare core beside each GPU runs the others.
    """

    def __init__(
        self, env: simpy.Environment, options: Options, gpus: int, frames: list[int], disk: Server,
        files: Server,
    ) -> None:  # fmt: skip
        self.env, self.options, self.disk, self.files = env, options, disk, files
        self.head = Server(env)
        self.waiting, self.opened, self.gpus = deque(frames), 0, gpus
        self.on_gpu, self.on_core = simpy.Store(env), simpy.Store(env)
        self.gpu_busy = 0.0
        self._open()
        for queue in (self.on_gpu, self.on_core):
            for _ in range(gpus):
                env.process(self._work(queue))

    def _open(self) -> None:
        while self.waiting and self.opened < 2 * self.gpus:
            self.opened += 1
            self.on_gpu.put(Clip(self.waiting.popleft()))

    def _work(self, queue: simpy.Store) -> Generator[Any, Any, None]:
        """Run steps without end, on a GPU or on a core."""
        while True:
            clip = yield queue.get()
            step, frames = clip.step, clip.frames
            if step == "render":
                frames = clip.stretches.popleft()
                if clip.stretches:
                    queue.put(clip)  # at the end of the queue, so that clips take turns
            segments = math.ceil(frames / SEGMENT) if step in ("render", "join") else 0
            yield self.head.serve(self.options.times.head)
            reads, computes, writes = self._costs(step, frames)
            operations = _OPERATIONS[step] + _PER_SEGMENT * segments * (step == "render")
            operations += segments * (step == "join")
            yield self.files.serve(operations / self.options.operations)
            yield self.disk.serve(reads / self.options.bandwidth)
            yield self.env.timeout(computes)
            if writes:
                yield self.disk.serve(writes / self.options.bandwidth)
            if queue is self.on_gpu:
                self.gpu_busy += computes
            self._ended(clip, step)

    def _costs(self, step: str, frames: int) -> tuple[float, float, float]:
        """Return the bytes that a step reads, its seconds, and the bytes that it writes."""
        times, source = self.options.times, frames / FACTOR
        if step == "prepare":
            return 1e5, times.prepare, 0.0
        if step == "scan":
            return source * times.frame_in, source / times.scanned, 0.0
        if step == "render":
            read = (source + 2 * RATE) * times.frame_in
            return read, times.opened + frames / times.rendered, frames * times.frame_out
        whole = frames * times.frame_out
        return whole, frames / times.joined, whole

    def _ended(self, clip: Clip, step: str) -> None:
        """Make the next step of a clip ready."""
        if step == "prepare":
            clip.step = "scan"
            self.on_core.put(clip)
        elif step == "scan":
            longest = self.options.longest * SEGMENT
            whole, rest = divmod(clip.frames, longest)
            clip.stretches.extend([longest] * whole + [rest] * (rest > 0))
            clip.left, clip.step = len(clip.stretches), "render"
            self.on_gpu.put(clip)
        elif step == "render":
            clip.left -= 1
            if clip.left == 0:
                clip.step = "join"
                self.on_core.put(clip)
        else:
            self.opened -= 1
            self._open()


def simulate(options: Options, gpus: int) -> Result:
    """Simulate the farms until all clips are finished."""
    count = options.clips or 20 * gpus
    draw = random.Random(options.seed)
    # At least half a second, as clips of a data set have.
    seconds = [max(0.5, draw.expovariate(1 / options.seconds)) for _ in range(count)]
    frames = [FACTOR * (round(length * RATE) - 1) + 1 for length in seconds]
    env = simpy.Environment()
    disk, files = Server(env), Server(env)
    farms = [
        Farm(env, options, gpus // options.heads, frames[first :: options.heads], disk, files)
        for first in range(options.heads)
    ]
    env.run()
    busy = {
        "GPUs": sum(farm.gpu_busy for farm in farms) / (gpus * env.now),
        "head": max(farm.head.busy for farm in farms) / env.now,
        "bandwidth": disk.busy / env.now,
        "files": files.busy / env.now,
    }
    return Result(gpus, env.now, count / env.now, sum(frames) / env.now, busy)


class _Idle:
    """A worker that does nothing, to time its head."""

    def ready(self) -> None:
        """Return."""

    def run(self, step: str, *arguments: Any) -> tuple[int, list[str]]:
        """Return at once."""
        return SEGMENT, []


def measured(tasks: int = 2000) -> float:
    """Return seconds of the head's CPU time for a task that renders 8 segments, with Ray."""
    from flavr_jax.farm import cluster
    from flavr_jax.farm.clip import Clip, Fractions, Setup, Stretch, Times, Wishes
    from flavr_jax.inference.tiles import WHOLE
    from flavr_jax.timeline.schedule import Grid
    from flavr_jax.video.frames import ClipInfo

    frames = 8 * SEGMENT
    keys = frames // FACTOR
    wishes = Wishes(
        ["motion"] * keys,
        Fractions(list(range(keys)), RATE),
        list(range(0, frames + 1, FACTOR)),
        Fractions(list(range(FACTOR)) * keys, FACTOR),
        [1] * frames,
    )
    times = Times(Fractions(list(range(frames)), 192), Fractions([1] * frames, 192))
    stretch = Stretch(0, 0, wishes, times, last=False)
    info = ClipInfo(1280, 720, Fraction(RATE), Fraction(1, RATE))
    setup = Setup({"network": "fp8 on a GPU"}, info, Grid((FACTOR,)), 2, WHOLE, 4, splittable=True)
    clip = Clip(Path("clip.mp4"), "clip_8x.mp4")
    with cluster.connected("local") as (ray, _):
        hands: cluster.Cluster[int] = cluster.Cluster(ray, cluster.Workers(1, 0, 1), hand=_Idle)
        while not hands.has_room:
            list(hands.ended())
        began = time.process_time()
        left = tasks
        while left or hands.busy:
            hands.hire()
            while left and hands.has_room:
                left -= 1
                hands.start(cluster.Call(left, "render", (clip, setup, stretch, Path("journal"))))
            list(hands.ended())
        return (time.process_time() - began) / tasks


def draw(results: list[Result], path: Path) -> None:
    """Plot the use of each part, and the frames per second, by number of GPUs."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    gpus = [result.gpus for result in results]
    for name in results[0].busy:
        left.plot(gpus, [100 * result.busy[name] for result in results], "o-", label=name)
    left.set(xscale="log", xlabel="GPUs", ylabel="in use, % of the time", ylim=(0, 105))
    left.legend()
    first = results[0]
    ideal = [first.frames / first.gpus * many for many in gpus]
    right.plot(gpus, ideal, "--", color="grey", label="proportional")
    right.plot(gpus, [result.frames for result in results], "o-", label="simulated")
    right.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="output frames/s")
    right.legend()
    with written_whole(path) as target:
        figure.savefig(target, dpi=100, format=path.suffix[1:])


def main(options: Options) -> None:
    """Print a line for each number of GPUs, and write the plot."""
    if options.measure:
        print(f"{1000 * measured():.3f} ms of the head's CPU time for a task")
        return
    results = []
    for gpus in options.gpus:
        began = time.monotonic()
        result = simulate(options, gpus)
        results.append(result)
        busy = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.busy.items())
        print(
            f"{gpus} GPUs: {result.clips:.4g} clips/s, {result.frames:.4g} frames/s, "
            f"{result.seconds / 3600:.3g} h; in use: {busy}; limit: {result.limit} "
            f"(simulated in {time.monotonic() - began:.0f} s)",
            flush=True,
        )
    if options.plot is not None:
        draw(results, options.plot)


if __name__ == "__main__":
    cli.run(main, Options)
