# SPDX-License-Identifier: Apache-2.0
"""Make a video smoother, or slower: new frames between those of a video or a folder of images."""

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
from flavr_jax.config import Precision
from flavr_jax.inference import stream
from flavr_jax.timeline import schedule
from flavr_jax.video import verify
from flavr_jax.video.files import reader, writer

SAMPLE = Path(__file__).resolve().parent.parent / "docs" / "media" / "sample.mp4"


@dataclass(frozen=True)
class Options:
    """Put new frames between those of a video or a folder of images.

    By default the clip keeps its duration and its audio and gets 8 times the frame rate.
    """

    input: Annotated[Path | None, tyro.conf.Positional] = None
    """Video file, folder of images, or - for a pipe; the bundled clip if left out."""
    output: str | None = None
    """A name in .mp4, .mov, .mkv, .webm, .avi, .gif, .webp or .y4m is a video, one without suffix a
    folder of images, - a Y4M pipe. Otherwise INPUT_8x.mp4 (or .mov, .mkv, .webm, as the input
    is), INPUT_8x/ for a folder, a pipe for a pipe."""
    checkpoint: Path | None = None
    """Directory of the network to use; the bundled one if left out."""
    precision: Precision = "auto"
    """What the network computes in; auto is the fastest that card and checkpoint support."""
    motion: Annotated[stream.Options, tyro.conf.OmitArgPrefixes] = field(
        default_factory=stream.Options
    )
    """What to make of the clip."""
    encoding: Annotated[writer.Encoding, tyro.conf.OmitArgPrefixes] = field(
        default_factory=writer.Encoding
    )
    """How a video is compressed."""
    overwrite: bool = False
    """Replace the output if it exists."""
    source: Annotated[reader.Input, tyro.conf.OmitArgPrefixes] = field(default_factory=reader.Input)
    """What the input does not say itself."""
    verify: bool = False
    """Read the output back: are originals as they were, do made frames flicker among them?"""


def main(options: Options) -> int:
    """Interpolate one clip; 1 when the input was damaged."""
    path = options.input or SAMPLE
    source = options.source.open(path)
    motion = options.motion
    interpolator = flavr_jax.load(options.checkpoint, precision=options.precision)
    info = schedule.output_info(source.info, motion.timing)
    output = options.output or default_output(options, path)
    # A pipe carries pictures only: what there is to say goes to stderr.
    say = functools.partial(print, file=sys.stderr if output == "-" else sys.stdout)
    say(f"{path} → {output}, {float(source.info.rate):.5g} → {float(info.rate):.5g} frames/s")
    say(f"checkpoint {options.checkpoint or 'default'} on {interpolator.runs_on}")

    if options.verify and "-" in (output, str(path)):
        raise ValueError("`verify` reads input and output again, which a pipe does not allow.")
    origins: list[int | None] = []
    report = stream.Report()
    clip = stream.interpolate(source, interpolator, motion, report=report)
    started = time.monotonic()
    sink = writer.open_sink(
        output,
        info,
        source=path,
        stretch=Fraction(motion.timing.stretch),
        encoding=options.encoding,
        overwrite=options.overwrite,
    )
    with sink, contextlib.closing(cli.track(clip, info.frame_count)) as frames:
        for frame in verify.recorded(frames, origins):
            sink.write(frame)
    seconds = time.monotonic() - started
    say(f"{report} in {output}, {seconds:.1f} s")
    if options.verify:
        written = reader.open_source(Path(output), headroom=True)
        say(f"verify: {verify.compare(options.source.open(path), written, origins)}")
    if source.damage:
        print(
            f"warning: {path} is damaged ({source.damage}); what could be read is done.",
            file=sys.stderr,
        )
        return 1
    return 0


def default_output(options: Options, path: Path) -> str:
    """Where the result goes when the user does not say."""
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


if __name__ == "__main__":
    cli.run(main, Options)
