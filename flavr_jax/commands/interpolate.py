# SPDX-License-Identifier: Apache-2.0
"""Make a video smoother or slower: put new frames between those of a video or a folder of images.

``flavr interpolate clip.mp4 --factor 8`` writes ``clip_8x.mp4``.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

import flavr_jax
from flavr_jax import cli
from flavr_jax.bundled import SAMPLE
from flavr_jax.config import Precision
from flavr_jax.inference.options import Options as Motion
from flavr_jax.inference.options import Resources
from flavr_jax.progress import Reporter
from flavr_jax.reading.inputs import Input, name_of
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.names import PIPE
from flavr_jax.video.journal.job import SEGMENT


@dataclass(frozen=True)
class Output:
    """Where the result goes.

    Attributes:
        output: name of the result. A name that ends in .mp4, .mov, .mkv, .webm, .avi, .gif, .webp
            or .y4m is a video; a name without a suffix is a folder of images; - writes Y4M to a
            pipe; null: drops the frames, to time the rest. By default clip.mp4 becomes clip_8x.mp4
            (.mov, .mkv and .webm keep their suffix), a folder becomes folder_8x/, and input from a
            pipe is written to a pipe.
        output_folder: folder for results under their default names; all names on the command line
            are inputs then.
        overwrite: replace the output if it exists.
        segment: frames that are encoded together. What is finished of an output is kept in segments
            of this length until the output is complete.
        resume: go on where an earlier run of the same command was interrupted; --no-resume starts
            over.
        preview: also write a sheet of frames (clip_8x_preview.png) and the first 3 seconds of the
            original beside the result (clip_8x_preview.mp4).
        compare: also write the original beside the result, in step (clip_8x_compare.mp4).
        browser: make the preview and the comparison for web browsers: H.264 with 8 bits in 4:2:0,
            at most 2560 pixels wide.
        report: also write a page with the quality at frames that are left out and made again
            (clip_8x_report.html).
        verify: read the output back at the end, and report how far original frames have changed and
            whether the brightness of made frames flickers between them.
    """

    output: str | None = None
    output_folder: Path | None = None
    overwrite: bool = False
    segment: int = SEGMENT
    resume: bool = True
    preview: bool = False
    compare: bool = False
    browser: bool = False
    report: bool = False
    verify: bool = False


@dataclass(frozen=True)
class Network:
    """Network to use.

    Attributes:
        checkpoint: directory of the network; by default the bundled one.
        precision: number format that the network computes in; auto is the fastest that the device
            and the checkpoint support. fp8 is fast on Hopper GPUs and very slow elsewhere; int8 is
            for CPUs.
    """

    checkpoint: Path | None = None
    precision: Precision = "auto"


@dataclass(frozen=True)
class Messages:
    """What is shown while the program runs.

    Attributes:
        quiet: show warnings and errors only.
        json: write start, progress, warnings, end and errors to stdout as JSON objects, a line
            each, for other programs; to stderr if stdout carries the video.
    """

    quiet: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.quiet and self.json:
            raise ValueError("`quiet` and `json` are both set; leave one out.")

    def reporter(self, *, to_stderr: bool) -> Reporter:
        """Return the reporter for a run; ``to_stderr`` if stdout carries the video."""
        mode = "json" if self.json else "quiet" if self.quiet else "text"
        return Reporter(mode, sys.stderr if to_stderr else None)


@dataclass(frozen=True)
class Options:
    """Put new frames between those of a video or a folder of images.

    By default the clip keeps its duration and its audio, and gets 8 times the frame rate.

    For example:

        clip.mp4 --factor 4                        4 times the frame rate
        clip.mp4 --factor 4 --slow-motion          4 times the duration
        clip.mp4 smooth.mkv --fps 60               60 frames a second, in another container
        clip.mp4 --range 00:01:00-00:01:10         10 seconds of it
        one.mp4 two.mp4 --output-folder results    several clips, with a table at the end
    """

    files: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[INPUT] [OUTPUT]")
    ] = ()
    """Video file, folder of images, or - to read a pipe; then the name of the output. Without any,
    the bundled sample clip. Three names or more are all inputs."""
    motion: Annotated[Motion, tyro.conf.OmitArgPrefixes] = field(default_factory=Motion)
    """Frames to make."""
    output: Annotated[Output, tyro.conf.OmitArgPrefixes] = field(default_factory=Output)
    """Where the result goes."""
    source: Annotated[Input, tyro.conf.OmitArgPrefixes] = field(default_factory=Input)
    """Part of the input to read, and properties that it does not state itself."""
    encoding: Annotated[Encoding, tyro.conf.OmitArgPrefixes] = field(default_factory=Encoding)
    """Compression of the output."""
    network: Annotated[Network, tyro.conf.OmitArgPrefixes] = field(default_factory=Network)
    """Network to use."""
    resources: Annotated[Resources, tyro.conf.OmitArgPrefixes] = field(default_factory=Resources)
    """Memory and devices to use."""
    messages: Annotated[Messages, tyro.conf.OmitArgPrefixes] = field(default_factory=Messages)
    """What is shown while the program runs."""


def main(options: Options) -> int:
    """Interpolate one clip or several.

    Return 2 if one of several clips failed, 1 if an input was damaged, otherwise 0.
    """
    jobs = jobs_of(options)
    report = options.messages.reporter(to_stderr=any(output == "-" for _, output in jobs))
    with report.listening():
        return _run(jobs, options, report)


def _run(jobs: list[tuple[Path, str]], options: Options, report: Reporter) -> int:
    # Only now, because JAX and the network take longer to import than --help may take.
    from flavr_jax.commands.interpolation import Result, interpolate, table_of

    network = options.network
    load = functools.cache(lambda: flavr_jax.load(network.checkpoint, precision=network.precision))
    if len(jobs) == 1:
        try:
            return interpolate(*jobs[0], options, load, report).code
        except Exception as error:
            if message := cli.explanation(error):
                report.tell("error", input=str(jobs[0][0]), message=message, code=2)
            raise
    results: list[Result] = []
    for path, output in jobs:
        try:
            results.append(interpolate(path, output, options, load, report))
        except Exception as error:
            message = cli.explanation(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            report.tell("error", input=str(path), message=message, code=2)
            results.append(Result(path, output, 2, message))
    if report.mode == "text":
        Console().print(table_of(results))
    return max(result.code for result in results)


def jobs_of(options: Options) -> list[tuple[Path, str]]:
    """Return each input with the name of its output.

    Raises:
        ValueError: the names contradict each other.
    """
    files, output, folder = options.files, options.output.output, options.output.output_folder
    if "" in (*files, output):
        raise ValueError(
            "the name of an input or an output is empty; write a name, or leave it out."
        )
    if None not in (output, folder):
        raise ValueError("`output` and `output-folder` are both set; leave one out.")
    if len(files) == 2 and folder is None:
        if output is not None:
            raise ValueError(f"two outputs are named, {files[1]} and {output}; leave --output out.")
        if Path(files[1]).is_file() and not options.output.overwrite:
            raise ValueError(
                f"{files[1]} exists. Use --overwrite to replace it by the output, or "
                "--output-folder . to interpolate both."
            )
        return [(Path(files[0]), files[1])]
    if len(files) > 1 and output is not None:
        raise ValueError(
            f"`output` is {output}, but there are {len(files)} inputs; use --output-folder."
        )
    paths = [Path(name) for name in files] or [SAMPLE]
    names = [output or default_output(options, path) for path in paths]
    if folder is not None:
        names = [
            str(folder / Path(name).name) + "/" * name.endswith("/") if name != "-" else name
            for name in names
        ]
    for name in names:
        if names.count(name) > 1:
            both = [str(path) for path, other in zip(paths, names) if other == name]
            raise ValueError(
                f"{' and '.join(both)} would both be written to {name}; run them one by one."
            )
    return list(zip(paths, names))


def default_output(options: Options, path: Path) -> str:
    """Return the name of the output if the user gives none."""
    name = name_of(path)
    if options.motion.slow_motion or options.motion.fps is None:
        name += f"_{options.motion.timing.factor}x"
    if options.motion.fps is not None:
        name += f"_{float(options.motion.fps):.5g}fps"
    if not options.files:
        return f"outputs/{name}.mp4"
    if path == PIPE:
        return "-"
    suffix = path.suffix.lower() if path.suffix.lower() in (".mov", ".mkv", ".webm") else ".mp4"
    return f"{name}/" if path.is_dir() else name + suffix
