# SPDX-License-Identifier: Apache-2.0
"""Magnify the small motion in a clip: ``flavr magnify clip.mp4 --factor 20``."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from flavr_jax import cli, program_cache
from flavr_jax.bundled import MAGNIFY_CHECKPOINT
from flavr_jax.evaluation import magnification
from flavr_jax.inference import magnify
from flavr_jax.inference.magnify import Reference
from flavr_jax.reading.inputs import Input, name_of
from flavr_jax.video.files import encoders, sinks
from flavr_jax.video.files.names import PIPE
from flavr_jax.video.frames import FrameSource, TimedFrame


@dataclasses.dataclass(frozen=True)
class Options:
    """Magnify the small motion in a clip.

    Use footage of a camera at rest. The network keeps four frames in memory; the other methods keep
    the whole clip.
    """

    source: Positional[Path]
    """Video file, folder of images, or - for a pipe."""
    output: str | None = None
    """A video, a folder of images, or - for a pipe; by default clip.mp4 becomes
    clip_magnified.mp4."""
    factor: float = 10.0
    """How many times motion is magnified."""
    method: Literal["network", "phase", "eulerian"] = "network"
    """The network, or a method without training: phase-based (needs the package pyrtools) or linear
    Eulerian."""
    checkpoint: Path | None = None
    """Checkpoint directory of a network that was trained with configs/magnify.toml; the bundled one
    by default."""
    reference: Reference = "first"
    """Frame from which the network measures motion: the first frame, or the previous one for motion
    that does not return."""
    band: tuple[float, float] | None = None
    """Lowest and highest frequency in Hz of the motion that phase and eulerian magnify; by default
    all motion since the first frame."""
    span: Annotated[Input, OmitArgPrefixes] = dataclasses.field(default_factory=Input)
    """Part of the input to read, and properties that it does not state itself."""
    encoding: Annotated[encoders.Encoding, OmitArgPrefixes] = dataclasses.field(
        default_factory=encoders.Encoding
    )
    """Compression of the output."""
    overwrite: bool = False
    """Replace the output if it exists."""


def main(options: Options) -> int:
    """Magnify one clip; return 1 if the input is damaged, otherwise 0."""
    _check(options)
    program_cache.enable()
    network = None
    if options.method == "network":
        network = magnify.load(options.checkpoint or MAGNIFY_CHECKPOINT)
    _warn(options, network)
    source = options.span.open(options.source)
    output = options.output or default_output(options.source)
    sink = sinks.open_sink(
        output,
        source.info,
        source=options.source,
        span=getattr(source, "span", None),
        encoding=options.encoding,
        overwrite=options.overwrite,
        pictures_only=options.span.sandbox,
    )
    if network is None:
        frames = _whole(source, options)
    else:
        frames = magnify.magnified(source, network, options.factor, options.reference)
    with sink, contextlib.closing(cli.track(frames, source.info.frame_count)) as tracked:
        for frame in tracked:
            sink.write(frame)
    print(f"motion magnified {options.factor:g} times in {output}", file=sys.stderr)
    if source.damage:
        print(
            f"warning: {options.source} is damaged ({source.damage}); everything readable was "
            "processed.",
            file=sys.stderr,
        )
    return int(bool(source.damage))


def default_output(path: Path) -> str:
    """Return the name of the output if the options have none."""
    if path == PIPE:
        return "-"
    name = f"{name_of(path)}_magnified"
    suffix = path.suffix.lower() if path.suffix.lower() in (".mov", ".mkv", ".webm") else ".mp4"
    return f"{name}/" if path.is_dir() else name + suffix


def _check(options: Options) -> None:
    """Raise a ValueError for invalid combinations of options."""
    if not 1 <= options.factor < math.inf:
        raise ValueError(f"`factor` is {options.factor}; it is 1 (no change) or more.")
    if options.method == "network" and options.band is not None:
        raise ValueError(f"`band` is {options.band}, but the network has none; leave it out.")
    if options.method != "network" and options.checkpoint is not None:
        raise ValueError(f"`checkpoint` is given with --method {options.method}; leave one out.")
    if options.band is not None and not 0 <= options.band[0] < options.band[1]:
        raise ValueError(f"`band` is {options.band}; give the lowest frequency, then the highest.")


def _warn(options: Options, network: magnify.Network | None) -> None:
    """Warn if the factor is larger than those in training."""
    if network is not None and options.factor > network.config.largest_factor:
        print(
            f"warning: the network was trained for factors up to "
            f"{network.config.largest_factor:g}; {options.factor:g} may look wrong.",
            file=sys.stderr,
        )


def _whole(source: FrameSource, options: Options) -> Iterator[TimedFrame]:
    """Yield the frames of a clip, magnified all at once by a method without training."""
    clip = list(source)
    most = np.iinfo(clip[0].pixels.dtype).max
    colours = np.stack([frame.pixels[..., :3] for frame in clip]).astype(np.float32) / most
    rate = float(source.info.rate)
    band = None if options.band is None else (options.band[0] / rate, options.band[1] / rate)
    if options.band is not None:
        lowest, highest = options.band
        frequencies = np.fft.rfftfreq(len(clip)) * rate
        if not np.any((lowest <= frequencies) & (frequencies <= highest)):
            raise ValueError(
                f"`band` is {options.band}, but the frequencies of {len(clip)} frames at {rate:g} "
                f"frames/s are the multiples of {rate / len(clip):.3g} up to {frequencies[-1]:.3g} "
                "Hz. Use a band that has one of them, or a longer clip."
            )
    made = magnification.BASELINES[options.method](colours, options.factor, band)
    for frame, colour in zip(clip, made):
        pixels = frame.pixels.copy()
        pixels[..., :3] = np.rint(np.clip(colour, 0.0, 1.0) * most).astype(pixels.dtype)
        yield TimedFrame(pixels, frame.pts, frame.duration)
