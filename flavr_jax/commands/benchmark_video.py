# SPDX-License-Identifier: Apache-2.0
"""Time whole runs, from a clip to an output, stage by stage: ``flavr benchmark-video``."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

import flavr_jax
from flavr_jax.commands.interpolate import Network
from flavr_jax.inference import stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.options import Resources
from flavr_jax.models.presets import PRESETS
from flavr_jax.profiling import comparison, presentation, video_throughput
from flavr_jax.profiling.video_throughput import OUTPUTS, First, Output, Run
from flavr_jax.video.files import reader
from flavr_jax.video.files.encoders import Encoding

_TRACED = 100  # frames to read in a traced run, since traces of longer ones take minutes to store


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure frames per second of whole runs, beside the network and the encoder alone.

    Every size and factor is first run with a few frames, which compiles its programs. The share of
    the network counts output frames, of which those of the input cost it nothing.
    """

    input: Path | None = None
    """Clip to read; without it, H.264 clips of the sizes are drawn."""
    sizes: tuple[str, ...] = ("1280x720",)
    """Width and height of drawn clips."""
    factors: tuple[int, ...] = (8,)
    """Factors that one pass of the network makes."""
    frames: int = 60
    """Frames to read."""
    outputs: tuple[Output, ...] = OUTPUTS
    """null: the frames are dropped; y4m: raw, into a pipe; h264: an MP4 file."""
    batch: int | None = None
    """Intervals computed at a time; by default as many as flavr interpolate would choose."""
    devices: str = "1"
    """Number of GPUs that compute, or all."""
    network: Network = dataclasses.field(default_factory=Network)
    """Network to use."""
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    """Compression of the H.264 file."""
    finished: int = 300
    """Frames of the H.264 output to give to the encoder alone as well; 0 leaves it out."""
    seconds: float = 3.0
    """How long the network alone is measured."""
    torch: tuple[comparison.TorchMode, ...] = ()
    """Settings of PyTorch to time the official network in, at the same size; needs PyTorch."""
    trace: bool = False
    """Trace another run into the null output, to measure how busy the GPU is."""
    json: Path | None = None
    """Append the measurements to this file, one line per run."""


def main(options: Options) -> None:
    """Print a table for each size and factor as soon as it is measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{presentation.environment()}; {cores} CPU cores", flush=True)
    network = flavr_jax.load(options.network.checkpoint, precision=options.network.precision)
    print(network.runs_on, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for source in _sources(options, Path(folder)):
            for factor in options.factors:
                _measure(source, network, factor, options, Path(folder))


def _sources(options: Options, folder: Path) -> Iterator[First]:
    """Yield the input, or a drawn clip of each size."""
    if options.input is not None:
        yield First(options.input, options.frames)
        return
    for size in options.sizes:
        width, height = map(int, reader.RawVideo(size).size.split("x"))
        path = folder / f"{size}.mp4"
        video_throughput.draw_clip(path, (width, height), options.frames)
        yield First(path, options.frames)


def _measure(
    source: First, network: Interpolator, factor: int, options: Options, folder: Path
) -> None:
    """Measure one clip at one factor, and print a table."""
    height, width = source.info.height, source.info.width
    plan = network.fit(height, width, factor, Resources(options.devices), options.batch)
    motion = stream.Options(factor, batch=plan.batch)
    alone = factor * video_throughput.network_rate(
        network, source, factor, plan.batch, options.seconds
    )
    console, title = Console(), f"{width}×{height}, {factor}x, {network.precision}"
    title += f", {network.concurrency} devices" * (network.concurrency > 1)
    title += f", batch {plan.batch}"
    console.print(f"{title}: the network alone makes {alone:.1f} frames/s")
    few = network.config.n_inputs + 2 * plan.batch * network.concurrency
    short = First(source.path, few)
    for output in options.outputs:
        video_throughput.run(short, network, motion, output, folder, encoding=options.encoding)
        found = video_throughput.run(
            source, network, motion, output, folder, encoding=options.encoding
        )
        console.print(_table(f"{title}, {output}", found, alone))
        _keep(options, f"{title}, {output}", found, alone)
    for line in _others(source, network, motion, options, folder):
        console.print(line)


def _others(
    source: First, network: Interpolator, motion: stream.Options, options: Options, folder: Path
) -> Iterator[str]:
    """Yield lines about the encoder, PyTorch and the GPU."""
    if "h264" in options.outputs and options.finished:
        yield _beside_encoder(source, network, motion, options, folder)
    for mode in options.torch:
        shape = source.info.height // 8 * 8, source.info.width // 8 * 8
        case = comparison.NetworkCase(PRESETS["flavr_8x"], 1, *shape, check=False)
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        row = comparison.run_torch(case, mode, 20, device)
        rate = 8e3 / row.timing.queued
        yield f"the official 8x network alone, {row.name}: {rate:.1f} frames/s"
    if options.trace:
        few = First(source.path, min(source.count, _TRACED))
        share = video_throughput.busy_in(
            folder / "trace", lambda: video_throughput.run(few, network, motion, "null", folder)
        )
        yield "no GPU in the trace" if share is None else f"the GPU is busy {share:.0%} of the time"


def _beside_encoder(
    source: First, network: Interpolator, motion: stream.Options, options: Options, folder: Path
) -> str:
    """Encode the same frames with the encoder alone, and return a line about both."""
    count = min(source.count, options.finished // motion.timing.factor + 1)
    few = First(source.path, count)
    finished = folder / "finished.y4m"
    video_throughput.write_finished(few, network, motion, finished)
    ours = video_throughput.run(few, network, motion, "h264", folder, encoding=options.encoding)
    name, theirs = video_throughput.encoder_rate(finished, ours.frames, options.encoding, folder)
    finished.unlink()
    return (
        f"h264, {ours.frames} frames: {ours.rate:.1f} frames/s, {ours.rate / theirs:.0%} of "
        f"{name} encoding the finished frames ({theirs:.1f} frames/s)"
    )


def _table(title: str, found: Run, alone: float) -> Table:
    """Return a table of where the time of each stage went."""
    title = (
        f"{title}: {found.rate:.1f} frames/s, {found.rate / alone:.0%} of the network alone; "
        f"{found.frames} frames in {found.seconds:.2f} s, the first after {found.first:.2f} s"
    )
    table = Table("stage", "items", "works", "waits for input", "waits for room", title=title)
    for stage in found.times:
        parts = (stage.working, stage.starved, stage.blocked)
        shares = (f"{seconds / found.seconds:.0%}" for seconds in parts)
        table.add_row(stage.name, str(stage.items), *shares)
    return table


def _keep(options: Options, title: str, found: Run, alone: float) -> None:
    """Append a run to the JSON file."""
    if options.json is None:
        return
    figures = {
        "run": title, "frames_per_second": found.rate, "network_alone": alone,
        "seconds": found.seconds, "first": found.first,
        "stages": [dataclasses.asdict(stage) for stage in found.times],
        "where": presentation.environment(),
    }  # fmt: skip
    with options.json.open("a") as file:
        file.write(json.dumps(figures) + "\n")
