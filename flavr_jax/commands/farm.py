# SPDX-License-Identifier: Apache-2.0
"""Interpolate videos on the machines of a Ray cluster: ``flavr farm``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from flavr_jax.commands import interpolate
from flavr_jax.commands.interpolate import Messages, Network
from flavr_jax.farm import SEGMENT
from flavr_jax.inference.options import Options as Motion
from flavr_jax.inference.options import Tiles, bytes_of
from flavr_jax.progress import Reporter
from flavr_jax.reading.inputs import Input
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.names import is_pipe

if TYPE_CHECKING:
    from flavr_jax.farm.clip import Clip


@dataclass(frozen=True)
class Options:
    """Interpolate videos on the machines of a Ray cluster, or on all cores or GPUs of this one.

    Every clip is divided among workers, and several clips are rendered at the same time. All
    machines must read and write the same files under the same paths. After an interruption, run the
    same command again: finished outputs are kept, and the others are completed.

    For example:

        *.mp4 --output smooth                              on this machine, or on $RAY_ADDRESS
        *.mp4 --output smooth --address 10.0.0.1:6379      on a cluster
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")]
    """Video files or folders of images."""
    output: Path
    """Folder for the results: clip.mp4 becomes clip_8x.mp4."""
    overwrite: bool = False
    """Replace outputs that exist."""
    address: str | None = None
    """The cluster: host:port, or local to start one on this machine. By default it is the one that
    the environment variable RAY_ADDRESS names, or one that runs on this machine; if there is
    neither, one is started here."""
    workers: int | None = None
    """Number of workers; by default as many as fit into the cluster. If it is larger, an autoscaler
    adds machines."""
    cpus: int | None = None
    """Cores of a worker: 1 by default, 4 if it has a GPU. They change the last bits of frames that
    are computed on a CPU, and the bytes of H.264 files."""
    retries: int = 5
    """How often a task is started again after the loss of its worker."""
    segment: int = SEGMENT
    """Frames that are encoded together; a worker renders one such segment or a few at a time. Use a
    multiple of the factor, so that no interval is computed for two segments."""
    memory_limit: str | None = None
    """Largest amount of memory to use on each device, such as 6GB; by default what is free there.
    Set it if the devices differ."""
    tiles: Tiles = "auto"
    """How large frames are computed if memory is short: exact, fast, auto or off."""
    motion: Annotated[Motion, tyro.conf.OmitArgPrefixes] = field(default_factory=Motion)
    """Frames to make."""
    source: Annotated[Input, tyro.conf.OmitArgPrefixes] = field(default_factory=Input)
    """Part of the inputs to read, and properties that they do not state themselves."""
    encoding: Annotated[Encoding, tyro.conf.OmitArgPrefixes] = field(default_factory=Encoding)
    """Compression of the outputs."""
    network: Annotated[Network, tyro.conf.OmitArgPrefixes] = field(default_factory=Network)
    """Network to use."""
    messages: Annotated[Messages, tyro.conf.OmitArgPrefixes] = field(default_factory=Messages)
    """What is shown while the program runs."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("`files` is empty; name at least one input.")
        for name in ("workers", "cpus", "segment"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it is 1 or more.")
        if self.retries < 0:
            raise ValueError(f"`retries` is {self.retries}; it is 0 or more.")
        if self.memory_limit is not None:
            bytes_of(self.memory_limit)


def main(options: Options) -> int:
    """Render the clips; return 2 if one failed, 1 if an input was damaged, otherwise 0."""
    from flavr_jax.commands.interpolation import Result, table_of
    from flavr_jax.farm import cluster, head

    jobs = jobs_of(options)
    report = Reporter(options.messages.reporter(to_stderr=False).mode, sys.stdout)
    # Ray prints messages about lost workers to stdout, which is for results.
    with (
        contextlib.redirect_stdout(sys.stderr),
        cluster.connected(options.address) as (ray, link),
    ):
        workers = cluster.Workers.of(ray, options.cpus, options.workers)
        count = workers.count(ray)
        report.say(
            f"{len(jobs)} clip{'s' * (len(jobs) > 1)}, {count} worker{'s' * (count > 1)} with "
            f"{workers}" + (f", dashboard {link}" if link else "")
        )
        report.tell("start", clips=len(jobs), workers=count, dashboard=link)
        clips = [clip_of(options, path, output, workers.cpus) for path, output in jobs]
        hands = cluster.Cluster(ray, workers, options.retries)
        try:
            outcomes = head.render(clips, hands, report)
        finally:
            hands.close()
    if report.mode == "text" and len(outcomes) > 1:
        Console().print(table_of([Result(**vars(outcome)) for outcome in outcomes]))
    return max(outcome.code for outcome in outcomes)


def jobs_of(options: Options) -> list[tuple[Path, str]]:
    """Return each input with the name of its output.

    Raises:
        ValueError: two inputs would have the same output, or one is a pipe.
    """
    for name in options.files:
        if is_pipe(Path(name)):
            raise ValueError(f"{name} is a pipe, which only one machine can read; use a file.")
    named = interpolate.jobs_of(
        interpolate.Options(
            files=options.files,
            motion=options.motion,
            output=interpolate.Output(output_folder=options.output.resolve()),
        )
    )
    return [(path.resolve(), output) for path, output in named]


def clip_of(options: Options, path: Path, output: str, cpus: int) -> Clip:
    """Return the description of a clip that workers get."""
    from flavr_jax.farm import clip

    encoding = options.encoding
    if encoding.threads is None:
        # x264's default on a machine with this number of cores.
        encoding = dataclasses.replace(encoding, threads=max(1, cpus * 3 // 2))
    checkpoint = options.network.checkpoint
    return clip.Clip(
        path,
        output,
        options.motion,
        options.source,
        encoding,
        checkpoint and checkpoint.resolve(),
        options.network.precision,
        options.memory_limit,
        options.tiles,
        options.segment,
        options.overwrite,
        cpus,
    )
