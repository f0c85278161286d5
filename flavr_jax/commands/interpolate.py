# SPDX-License-Identifier: Apache-2.0
"""Make a video smoother or slower: put new frames between those of a video or a folder of images.

``flavr interpolate clip.mp4 --factor 8`` writes ``clip_8x.mp4``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro

import flavr_jax
from flavr_jax import cli
from flavr_jax.bundled import SAMPLE
from flavr_jax.config import Precision
from flavr_jax.inference import stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.timeline import schedule
from flavr_jax.video import verify
from flavr_jax.video.files import encoders, reader, sinks
from flavr_jax.video.files.names import is_pipe


@dataclass(frozen=True)
class Options:
    """Put new frames between those of a video or a folder of images.

    By default the clip keeps its duration and its audio, and gets 8 times the frame rate.
    """

    input: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[INPUT]")] = None
    """Video file, folder of images, or - to read a pipe. Without it, the bundled sample clip."""
    target: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[OUTPUT]")] = None
    """The same as --output."""
    output: str | None = None
    """Name of the result. A name that ends in .mp4, .mov, .mkv, .webm, .avi, .gif, .webp or .y4m is
    a video; a name without a suffix is a folder of images; - writes Y4M to a pipe. By default
    clip.mp4 becomes clip_8x.mp4 (.mov, .mkv and .webm keep their suffix), a folder becomes
    folder_8x/, and input from a pipe is written to a pipe."""
    overwrite: bool = False
    """Replace the output if it exists."""
    verify: bool = False
    """Read the output back at the end, and report how far original frames have changed and whether
    the brightness of made frames flickers between them."""
    checkpoint: Path | None = None
    """Directory of the network to use; by default the bundled one."""
    precision: Precision = "auto"
    """Number format that the network computes in; auto is the fastest that the device and the
    checkpoint support. fp8 is fast on Hopper GPUs and very slow elsewhere."""
    motion: Annotated[stream.Options, tyro.conf.OmitArgPrefixes] = field(
        default_factory=stream.Options
    )
    """Frames to make."""
    encoding: Annotated[encoders.Encoding, tyro.conf.OmitArgPrefixes] = field(
        default_factory=encoders.Encoding
    )
    """Compression of the output."""
    source: Annotated[reader.Input, tyro.conf.OmitArgPrefixes] = field(default_factory=reader.Input)
    """Properties that the input does not state itself."""


def main(options: Options) -> int:
    """Interpolate one clip; return 1 if the input was damaged, otherwise 0."""
    if None not in (options.target, options.output):
        raise ValueError(
            f"two outputs are named, {options.target} and {options.output}; leave --output out."
        )
    path = options.input or SAMPLE
    source = options.source.open(path)
    motion = options.motion
    interpolator = flavr_jax.load(options.checkpoint, precision=options.precision)
    check_factor(interpolator, motion, source.info.rate)
    info = schedule.output_info(source.info, motion.timing)
    output = options.target or options.output or default_output(options, path)
    # If stdout carries the video, messages must go to stderr.
    say = functools.partial(print, file=sys.stderr if output == "-" else sys.stdout)
    say(f"{path} → {output}, {float(source.info.rate):.5g} → {float(info.rate):.5g} frames/s")
    say(f"checkpoint {options.checkpoint or 'default'} on {interpolator.runs_on}")
    if options.verify and (output == "-" or is_pipe(path)):
        raise ValueError("`verify` reads input and output again, which a pipe does not allow.")

    origins: list[int | None] = []
    summary = stream.Summary()
    made = stream.interpolate(source, interpolator, motion, summary=summary)
    started = time.monotonic()
    sink = sinks.open_sink(
        output,
        info,
        source=path,
        stretch=Fraction(motion.timing.stretch),
        encoding=options.encoding,
        overwrite=options.overwrite,
    )
    tracked = cli.track(made, info.frame_count, before_first="compiling")
    with sink, contextlib.closing(tracked) as frames:
        for frame in verify.recorded(frames, origins):
            sink.write(frame)
    broken = getattr(sink, "broken", 0)
    lost = f", {broken} broken packets of sound or subtitles left out" if broken else ""
    say(f"{summary} in {output}, {time.monotonic() - started:.1f} s{lost}")
    if options.verify:
        written = reader.open_source(Path(output), headroom=True)
        say(f"verify: {verify.compare(options.source.open(path), written, origins)}")
    if source.damage:
        print(
            f"warning: {path} is damaged ({source.damage}); everything readable was processed.",
            file=sys.stderr,
        )
        return 1
    return 0


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
    if options.input is None:
        return f"outputs/{name}.mp4"
    if path == reader.PIPE:
        return "-"
    suffix = path.suffix.lower() if path.suffix.lower() in (".mov", ".mkv", ".webm") else ".mp4"
    return f"{name}/" if path.is_dir() else name + suffix
