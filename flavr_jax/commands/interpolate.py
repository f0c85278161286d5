# SPDX-License-Identifier: Apache-2.0
"""Make a video smoother or slower: put new frames between those of a video or a folder of images.

``flavr interpolate clip.mp4 --factor 8`` writes ``clip_8x.mp4``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import jax
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import flavr_jax
from flavr_jax import cli
from flavr_jax.bundled import SAMPLE
from flavr_jax.config import Precision
from flavr_jax.inference import stream
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.progress import Reporter
from flavr_jax.terminal import printable
from flavr_jax.timeline import schedule
from flavr_jax.video import verify
from flavr_jax.video.files import encoders, reader, sinks
from flavr_jax.video.files.names import NULL, is_pipe
from flavr_jax.video.frames import FrameSink
from flavr_jax.video.journal.job import SEGMENT, Job, digest_of_folder, fingerprint


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
        resume: go on where an earlier run of the same command was interrupted.
        verify: read the output back at the end, and report how far original frames have changed and
            whether the brightness of made frames flickers between them.
    """

    output: str | None = None
    output_folder: Path | None = None
    overwrite: bool = False
    segment: int = SEGMENT
    resume: bool = True
    verify: bool = False


@dataclass(frozen=True)
class Network:
    """Network to use.

    Attributes:
        checkpoint: directory of the network; by default the bundled one.
        precision: number format that the network computes in; auto is the fastest that the device
            and the checkpoint support. fp8 is fast on Hopper GPUs and very slow elsewhere.
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
    motion: Annotated[stream.Options, tyro.conf.OmitArgPrefixes] = field(
        default_factory=stream.Options
    )
    """Frames to make."""
    output: Annotated[Output, tyro.conf.OmitArgPrefixes] = field(default_factory=Output)
    """Where the result goes."""
    source: Annotated[reader.Input, tyro.conf.OmitArgPrefixes] = field(default_factory=reader.Input)
    """Part of the input to read, and properties that it does not state itself."""
    encoding: Annotated[encoders.Encoding, tyro.conf.OmitArgPrefixes] = field(
        default_factory=encoders.Encoding
    )
    """Compression of the output."""
    network: Annotated[Network, tyro.conf.OmitArgPrefixes] = field(default_factory=Network)
    """Network to use."""
    messages: Annotated[Messages, tyro.conf.OmitArgPrefixes] = field(default_factory=Messages)
    """What is shown while the program runs."""


def main(options: Options) -> int:
    """Interpolate one clip or several.

    Return 2 if one of several clips failed, 1 if an input was damaged, otherwise 0.
    """
    jobs = jobs_of(options)
    report = options.messages.reporter(to_stderr=any(output == "-" for _, output in jobs))
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


@dataclass(frozen=True)
class Result:
    """Outcome of one clip.

    Attributes:
        path: the input.
        output: name of the output.
        code: 0, 1 if the input was damaged, 2 if there is no output.
        note: why the code is not 0.
        summary: counts of frames.
        seconds: time that it took.
    """

    path: Path
    output: str
    code: int
    note: str = ""
    summary: stream.Summary = field(default_factory=stream.Summary)
    seconds: float = 0.0


def interpolate(
    path: Path,
    output: str,
    options: Options,
    load: Callable[[], Interpolator],
    report: Reporter,
) -> Result:
    """Interpolate one clip, and report about it."""
    source = options.source.open(path)
    motion = options.motion
    interpolator = load()
    check_factor(interpolator, motion, source.info.rate)
    info = schedule.output_info(source.info, motion.timing)
    rates = float(source.info.rate), float(info.rate)
    report.say(f"{path} → {output}, {rates[0]:.5g} → {rates[1]:.5g} frames/s")
    checkpoint = str(options.network.checkpoint or "default")
    report.say(f"checkpoint {checkpoint} on {interpolator.runs_on}")
    report.tell(
        "start", input=str(path), output=output, rate_in=rates[0], rate_out=rates[1],
        frames=info.frame_count, checkpoint=checkpoint, device=interpolator.runs_on,
    )  # fmt: skip
    if options.output.verify and (output in ("-", NULL) or is_pipe(path)):
        raise ValueError("`verify` reads input and output again; use a file for both.")

    origins: list[int | None] = []
    summary = stream.Summary()
    started = time.monotonic()
    sink = sinks.open_sink(
        output,
        info,
        source=path,
        stretch=Fraction(motion.timing.stretch),
        span=getattr(source, "span", None),
        encoding=options.encoding,
        overwrite=options.output.overwrite,
        job=job_of(path, output, options, interpolator),
    )
    done = getattr(sink, "done", 0)
    if done:
        report.say(f"going on after frame {done}, which an earlier run finished")
        report.tell("resume", done=done)
    with explained_rest(sink), sink, Pipeline("encode") as pipeline:
        ready = stream.overlapped(
            pipeline, source, interpolator, motion, summary, sink.conversion, done
        )
        tracked = report.track(ready, info.frame_count, before_first="compiling")
        with contextlib.closing(tracked) as frames:
            for frame in verify.recorded(frames, origins):
                sink.write(frame)
    seconds = time.monotonic() - started
    broken = getattr(sink, "broken", 0)
    lost = f", {broken} broken packets of sound or subtitles left out" if broken else ""
    report.say(f"{summary} in {output}, {seconds:.1f} s{lost}")
    if options.output.verify:
        written = reader.open_source(Path(output), headroom=True)
        found = verify.compare(options.source.open(path), written, origins)
        report.say(f"verify: {found}")
    if source.damage:
        report.warn(f"{path} is damaged ({source.damage}); everything readable was processed.")
    result = Result(path, output, int(bool(source.damage)), source.damage or "", summary, seconds)
    report.tell(
        "end", input=str(path), output=output, code=result.code, frames_in=summary.frames_in,
        frames_out=summary.frames_out, cuts=summary.cuts, repeats=summary.repeats,
        broken_packets=broken, seconds=seconds,
    )  # fmt: skip
    return result


@contextlib.contextmanager
def explained_rest(sink: FrameSink) -> Iterator[None]:
    """Add to any error how much of the output the next run will find finished."""
    try:
        yield
    except BaseException as error:
        if kept := getattr(sink, "kept", 0):
            error.add_note(f"{kept} frames are finished and kept; the same command goes on there.")
        raise


def job_of(path: Path, output: str, options: Options, interpolator: Interpolator) -> Job | None:
    """Return what a result depends on; None for pipes, which cannot be resumed."""
    if output in ("-", NULL) or is_pipe(path):
        return None
    motion = dataclasses.asdict(options.motion)
    motion.pop("batch")  # a smaller one may be needed to go on after a lack of memory
    facts = {
        "input": fingerprint(path),
        "source": repr(options.source),
        "motion": repr(motion),
        "encoding": repr(options.encoding),
        "checkpoint": digest_of_folder(options.network.checkpoint or DEFAULT_CHECKPOINT),
        "network": f"{interpolator.precision}, {interpolator.runs_on}",
        "versions": repr((flavr_jax.__version__, jax.__version__, av.__version__)),
        "libraries": repr(av.library_versions),
    }
    return Job(facts, options.output.segment, options.output.resume)


def jobs_of(options: Options) -> list[tuple[Path, str]]:
    """Return each input with the name of its output.

    Raises:
        ValueError: the names contradict each other.
    """
    files, output, folder = options.files, options.output.output, options.output.output_folder
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


def table_of(results: list[Result]) -> Table:
    """Return a table with a line for each clip."""
    table = Table("input", "output", "frames", "seconds", "result", title="Summary")
    for each in results:
        counts = f"{each.summary.frames_in} → {each.summary.frames_out}" if each.code < 2 else ""
        words = ("done", f"damaged: {each.note}", f"failed: {each.note}")[each.code]
        row = (str(each.path), each.output, counts, f"{each.seconds:.1f}", words)
        table.add_row(*map(escape, map(printable, row)))
    return table


def check_factor(network: Interpolator, motion: stream.Options, rate: Fraction) -> None:
    """Raise a ValueError, which names the --fps to use instead, if the factor is impossible."""
    if motion.fps is not None:
        return
    factor = motion.timing.factor
    try:
        network.passes(factor)
    except ValueError as error:
        if factor < 1:
            raise
        if motion.slow_motion:
            remedy = f"Or add --fps {rate}, which works with any factor in slow motion."
        else:
            remedy = f"Or use --fps {rate * factor} instead, {factor} times this clip's frame rate."
        raise ValueError(f"{error} {remedy}") from error


def default_output(options: Options, path: Path) -> str:
    """Return the name of the output if the user gives none."""
    name = path.resolve().stem
    if options.motion.slow_motion or options.motion.fps is None:
        name += f"_{options.motion.timing.factor}x"
    if options.motion.fps is not None:
        name += f"_{float(options.motion.fps):.5g}fps"
    if not options.files:
        return f"outputs/{name}.mp4"
    if path == reader.PIPE:
        return "-"
    suffix = path.suffix.lower() if path.suffix.lower() in (".mov", ".mkv", ".webm") else ".mp4"
    return f"{name}/" if path.is_dir() else name + suffix
