# SPDX-License-Identifier: Apache-2.0
"""Frames per second of a whole run, from a file to an output, beside what limits them.

The limits are the network alone, whose frames stay on the device, and the encoder alone, which
gets the same finished frames with the same settings on the same cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import jax
import numpy as np

from flavr_jax.inference import stream
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.pipeline import Pipeline, Times
from flavr_jax.reading.inputs import Input
from flavr_jax.reading.parent import ChildSource
from flavr_jax.timeline.clock import output_info
from flavr_jax.timeline.keys import Link
from flavr_jax.video.files import sinks
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import FrameSource, TimedFrame

__all__ = [
    "OUTPUTS",
    "First",
    "Output",
    "Run",
    "busy",
    "busy_in",
    "draw_clip",
    "encoder_rate",
    "network_rate",
    "run",
    "write_finished",
]

Output: TypeAlias = Literal["null", "y4m", "h264"]
OUTPUTS: tuple[Output, ...] = ("null", "y4m", "h264")
"""Outputs to measure: dropped frames, raw frames into a pipe, and an H.264 file."""

_RUNNING = 2  # computations in flight on each device beside the one that is waited for
_TILE = 8  # side in pixels of the squares that a drawn clip consists of


@dataclasses.dataclass(frozen=True)
class Run:
    """One run from a clip to an output.

    Attributes:
        frames: frames of the output.
        seconds: how long they took.
        first: seconds until the first of them arrived, which ``seconds`` includes.
        times: where the time of each stage went.
    """

    frames: int
    seconds: float
    first: float
    times: list[Times]

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds


class First:
    """The first frames of a clip, as a source.

    Attributes:
        path: of the clip.
        count: number of frames.
        info: properties of the clip, with this number of frames.
        damage: None.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self.source = Input().open(path)
        self.info = dataclasses.replace(self.source.info, frame_count=count)
        self.damage: str | None = None

    def __iter__(self) -> Iterator[TimedFrame]:
        return itertools.islice(iter(self.source), self.count)


class _FirstDecoded(First):
    """The same frames, decoded and linked by a child process; see :class:`ChildSource`."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path, count)
        self._child = ChildSource(path, Input(), info=self.source.info)
        self._child.wait()

    def linked(self, cuts: bool, repeats: bool) -> Iterator[tuple[TimedFrame, Link]]:
        """Yield each frame with its link to the one before."""
        return itertools.islice(self._child.linked(cuts, repeats), self.count)


def draw_clip(path: Path, size: tuple[int, int], frames: int) -> None:
    """Write an H.264 clip of coloured squares that move, with noise as of a camera.

    Args:
        path: the file.
        size: width and height in pixels.
        frames: how many.
    """
    width, height = size
    random = np.random.default_rng(0)
    rows, columns = (2 * side // _TILE + 2 for side in (height, width))
    with av.open(str(path), "w") as container:
        stream_ = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream_.width, stream_.height, stream_.pix_fmt = width, height, "yuv420p"
        planes = []
        for side, spread in ((_TILE, 80), (_TILE // 2, 40), (_TILE // 2, 40)):
            cells = random.integers(128 - spread, 128 + spread, (rows, columns), np.uint8)
            planes.append(cells.repeat(side, 0).repeat(side, 1))
        noise = random.integers(0, 5, (2 * height, 2 * width), np.uint8)
        for index in range(frames):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, picture in zip(frame.planes, planes):
                half = picture is not planes[0]
                x = (index * 4 >> half) % (width >> half)
                y = (index * 2 >> half) % (height >> half)
                target = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
                part = picture[y : y + plane.height, x : x + plane.width]
                shift = index * 37 % (height * width >> 2 * half)
                grain = noise.reshape(-1)[shift : shift + part.size].reshape(part.shape)
                target[:, : plane.width] = part + grain
            container.mux(stream_.encode(frame))
        container.mux(stream_.encode(None))


def network_rate(
    network: Interpolator, frames: Iterable[TimedFrame], factor: int, batch: int, seconds: float
) -> float:
    """Return intervals per second of the network alone, on frames that stay on its devices.

    Args:
        network: the network.
        frames: at least ``n_inputs + batch − 1`` frames of a clip.
        factor: one that a single pass makes.
        batch: intervals computed at a time.
        seconds: how long to measure, after a warm-up.
    """
    count = network.config.n_inputs + batch - 1
    clip = list(itertools.islice(frames, count))
    windows = [
        (number, [network.upload(frame.picture, number) for frame in clip])
        for number in range(network.concurrency)
    ]
    for number, window in windows:
        network.between(window, factor, device=number).wait()  # compiles
    running: deque[Computation] = deque()
    began, done = time.perf_counter(), 0
    for number, window in itertools.cycle(windows):
        running.append(network.between(window, factor, device=number))
        if len(running) > _RUNNING * len(windows):
            running.popleft().wait()
            done += 1
        if time.perf_counter() - began >= seconds:
            break
    for each in running:
        each.wait()
    return (done + len(running)) * batch / (time.perf_counter() - began)


def run(
    source: FrameSource,
    network: Interpolator,
    options: stream.Options,
    output: Output,
    folder: Path,
    *,
    encoding: Encoding = Encoding(),
) -> Run:
    """Interpolate a clip as ``flavr interpolate`` does, and time it.

    Args:
        source: the clip.
        network: the network.
        options: which frames to make.
        output: where they go.
        folder: for an output that is a file.
        encoding: its settings.
    """
    names = {"null": "null:", "y4m": "-", "h264": str(folder / "timed.mp4")}
    info = output_info(source.info, options.timing)
    # As `flavr interpolate` does, whose child process starts while the network is loaded.
    if jax.default_backend() != "cpu" and isinstance(source, First):
        source = _FirstDecoded(source.path, source.count)
    count, first = 0, 0.0
    with _reader_of_stdout() if output == "y4m" else contextlib.nullcontext():
        sink = sinks.open_sink(names[output], info, source=None, encoding=encoding, overwrite=True)
        began = time.perf_counter()
        with Pipeline("encode") as pipeline:
            with sink:
                for frame in stream.overlapped(
                    pipeline, source, network, options, stream.Summary(), sink.conversion
                ):
                    first = first or time.perf_counter() - began
                    sink.write(frame)
                    count += 1
            times = pipeline.times
        return Run(count, time.perf_counter() - began, first, times)


def write_finished(
    source: FrameSource, network: Interpolator, options: stream.Options, path: Path
) -> None:
    """Write the frames of a run to a Y4M file."""
    info = output_info(source.info, options.timing)
    with sinks.open_sink(str(path), info, source=None, overwrite=True) as sink:
        made = stream.interpolate(source, network, options, conversion=sink.conversion)
        for frame in stream.fetched(made, sink.conversion):
            sink.write(frame)


def encoder_rate(
    finished: Path, frames: int, encoding: Encoding, folder: Path
) -> tuple[str, float]:
    """Return what encodes finished frames as H.264, and its frames per second.

    It is ``ffmpeg`` if that is installed, here or in the package imageio-ffmpeg; otherwise the
    libx264 of PyAV, which gets frames that are in memory.
    """
    crf = str(18 if encoding.crf is None else encoding.crf)
    program = shutil.which("ffmpeg")
    if program is None:
        try:
            import imageio_ffmpeg  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            options = {"preset": encoding.preset, "crf": crf}
            return "libx264", frames / _encoding_in_memory(finished, options, folder)
        program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [
        program, "-y", "-loglevel", "error", "-i", str(finished), "-c:v", "libx264",
        "-preset", encoding.preset, "-crf", crf, str(folder / "alone.mp4"),
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return "ffmpeg", frames / (time.perf_counter() - began)


def _encoding_in_memory(finished: Path, options: dict[str, str], folder: Path) -> float:
    """Return the seconds that PyAV takes to encode the frames of a video as H.264."""
    with av.open(str(finished)) as container:
        ready = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    with av.open(str(folder / "alone.mp4"), "w") as container:
        stream_ = container.add_stream("libx264", rate=rate, options=options)
        stream_.width, stream_.height = ready[0].width, ready[0].height
        stream_.codec_context.thread_type = "AUTO"  # PyAV's default encodes in slices
        began = time.perf_counter()
        for frame in ready:
            frame.pict_type = 0  # otherwise x264 copies it, and every raw picture is a key frame
            container.mux(stream_.encode(frame))
        container.mux(stream_.encode(None))
        return time.perf_counter() - began


def busy_in(folder: Path, work: Callable[[], Any]) -> float | None:
    """Trace some work, and return what :func:`busy` does.

    Python's calls are not traced: that would slow the threads down which keep the GPU busy.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 1
    with jax.profiler.trace(str(folder), profiler_options=options):
        work()
    return busy(folder)


def busy(folder: Path) -> float | None:
    """Return the share of time in which the GPU computed or copied, from a trace in ``folder``.

    The time goes from the first kernel to the end of the last. None if there was no GPU.
    """
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    data = jax.profiler.ProfileData.from_file(str(newest))
    spans = sorted(
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in data.planes
        if plane.name.startswith("/device:GPU:0")
        for line in plane.lines
        # Other lines repeat the kernels, grouped by module, operation or source.
        if line.name.startswith("Stream")
        for event in line.events
    )
    if not spans:
        return None
    covered, end = 0.0, spans[0][0]
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered / (end - spans[0][0])


@contextlib.contextmanager
def _reader_of_stdout() -> Iterator[None]:
    """Let a process read and drop what is written to standard output inside."""
    sys.stdout.flush()
    kept = os.dup(1)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        try:
            os.dup2(reader.stdin.fileno(), 1)
            reader.stdin.close()
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
