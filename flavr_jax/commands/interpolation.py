# SPDX-License-Identifier: Apache-2.0
"""Interpolation of one clip: what ``flavr interpolate`` does for each input."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import jax
from rich.markup import escape
from rich.table import Table

from flavr_jax.commands.inspection import inspect, names_of
from flavr_jax.commands.interpolate import Options
from flavr_jax.inference import duration, job, stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.progress import Reporter
from flavr_jax.terminal import printable
from flavr_jax.timeline.clock import output_info
from flavr_jax.video import verify
from flavr_jax.video.files import reader, sinks
from flavr_jax.video.files.names import NULL, is_pipe
from flavr_jax.video.frames import ClipInfo, FrameSink, FrameSource, Retimed
from flavr_jax.video.journal.job import Job

__all__ = ["Result", "interpolate", "table_of"]


STALLED = 120.0  # seconds; whoever writes into a pipe may take any time


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
    frames = source
    # On a CPU, a further process would take time from the network.
    if jax.default_backend() != "cpu" and not options.resources.dry_run:
        frames = options.source.in_child(path, source)
    motion, interpolator = options.motion, load()
    interpolator.on_compile = functools.partial(tell_of_compiling, report)
    check_factor(interpolator, motion, source.info.rate)
    info = output_info(source.info, motion.timing)
    tell_of_start(report, path, output, options, interpolator, source.info.rate, info)
    check_names(path, output, options)
    motion = planned(interpolator, source.info, options, report)
    if options.resources.dry_run:
        return Result(path, output, 0, "dry run")

    origins: list[int | None] = []
    in_folder = not sinks.is_video_name(output)
    read_again = options.output.verify or bool(names_of(output, options))
    times: list[tuple[Fraction, Fraction]] = []  # of frames in a folder, which stores none
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
        pictures_only=options.source.sandbox,
    )
    done = tell_of_resuming(report, sink)
    with explained_rest(sink), sink, Pipeline("encode") as pipeline:
        limit = None if is_pipe(path) else STALLED
        ready = stream.overlapped(
            pipeline, frames, interpolator, motion, summary, sink.conversion, done, limit
        )
        tracked = report.track(ready, info.frame_count, before_first="starting")
        with contextlib.closing(tracked) as made:
            for frame in verify.recorded(made, origins) if options.output.verify else made:
                sink.write(frame)
                if in_folder and read_again:
                    times.append((frame.pts, frame.duration))
    seconds = time.monotonic() - started
    report.say(f"{summary} in {output}, {seconds:.1f} s{_losses(sink)}")

    def written(*, headroom: bool = False) -> FrameSource:
        found = reader.open_source(Path(output), rate=info.rate, headroom=headroom)
        return Retimed(found, times, info.time_base) if in_folder else found

    if options.output.verify:
        _verify(path, output, written(headroom=True), options, origins, report)
    inspect(path, output, written, options, interpolator, report)
    damage = frames.damage or ""
    if damage:
        report.warn(f"{path} is damaged ({damage}); everything readable was processed.")
    result = Result(path, output, int(bool(damage)), damage, summary, seconds)
    tell_of_end(report, result, sink)
    return result


def _verify(
    path: Path,
    output: str,
    written: FrameSource,
    options: Options,
    origins: list[int | None],
    report: Reporter,
) -> None:
    """Compare an output with its source, and say how they differ."""
    try:
        report.say(f"verify: {verify.compare(options.source.open(path), written, origins)}")
    except ValueError as error:
        # A GIF has no frames in quick succession, and a WebP no equal ones.
        if Path(output).suffix.lower() not in (".gif", ".webp"):
            raise
        report.warn(f"{output} is complete, but not verified: {error}")


def tell_of_start(
    report: Reporter,
    path: Path,
    output: str,
    options: Options,
    interpolator: Interpolator,
    rate: Fraction,
    info: ClipInfo,
) -> None:
    """Say what is read, at which rate, what is written, and what the network runs on."""
    rates = float(rate), float(info.rate)
    report.say(f"{path} → {output}, {rates[0]:.5g} → {rates[1]:.5g} frames/s")
    checkpoint = str(options.network.checkpoint or "default")
    report.say(f"checkpoint {checkpoint} on {interpolator.runs_on}")
    report.tell(
        "start", input=str(path), output=output, rate_in=rates[0], rate_out=rates[1],
        frames=info.frame_count, checkpoint=checkpoint, device=interpolator.runs_on,
    )  # fmt: skip


def tell_of_resuming(report: Reporter, sink: FrameSink) -> int:
    """Say how many frames an earlier run finished, and return the number."""
    done = getattr(sink, "done", 0)
    if done:
        report.say(f"going on after frame {done}, which an earlier run finished")
        report.tell("resume", done=done)
    return done


def tell_of_end(report: Reporter, result: Result, sink: FrameSink) -> None:
    """Tell programs how a run ended."""
    summary = result.summary
    report.tell(
        "end", input=str(result.path), output=result.output, code=result.code,
        frames_in=summary.frames_in, frames_out=summary.frames_out, cuts=summary.cuts,
        cut_times=[float(time) for time in summary.cut_times], repeats=summary.repeats,
        broken_packets=getattr(sink, "broken", 0), seconds=result.seconds,
    )  # fmt: skip


def _losses(sink: FrameSink) -> str:
    broken = getattr(sink, "broken", 0)
    return f", {broken} broken packets of sound or subtitles left out" if broken else ""


def planned(
    network: Interpolator, clip: ClipInfo, options: Options, report: Reporter
) -> stream.Options:
    """Prepare a network for a clip's size; return the frames to make, with the batch to use."""
    motion, resources = options.motion, options.resources
    levels = stream.grid_of(network, motion).levels or (network.factor,)
    plan = network.fit(clip.height, clip.width, max(levels), resources, motion.batch)
    if plan.tiling.stripes > 1 or resources.dry_run:
        report.say(f"{clip.width}×{clip.height}: {plan}")
    if resources.dry_run:
        report.say(duration.forecast(network, clip, motion.timing, levels, plan.tiling))
    report.tell(
        "plan", batch=plan.batch, tiling=str(plan.tiling), bytes=plan.memory, limit=plan.limit
    )
    return dataclasses.replace(motion, batch=plan.batch)


def tell_of_compiling(report: Reporter, width: int, height: int, seconds: float | None) -> None:
    """Say what the next frames wait for."""
    about = "" if seconds is None else f", about {seconds:.0f} s"
    report.say(f"compiling for {width}×{height}{about} …")
    report.tell("compile", width=width, height=height, seconds=seconds)


def check_names(path: Path, output: str, options: Options) -> None:
    """Raise an error if a file to make beside the output exists, or input or output is a pipe."""
    again = {
        name: getattr(options.output, name) for name in ("verify", "preview", "compare", "report")
    }
    asked = next((name for name, wanted in again.items() if wanted), None)
    if asked is not None and (output in ("-", NULL) or is_pipe(path)):
        raise ValueError(f"`{asked}` reads input and output again; use a file for both.")
    for target in names_of(output, options).values():
        if target.exists() and not options.output.overwrite:
            raise FileExistsError(f"{target} exists. Use --overwrite or another --output.")


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
    facts = job.facts(
        path,
        options.source,
        options.motion,
        options.encoding,
        options.network.checkpoint,
        interpolator,
    )
    return Job(facts, options.output.segment, options.output.resume)


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
