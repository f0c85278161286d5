# SPDX-License-Identifier: Apache-2.0
"""Render a scene: a clip to interpolate, and the true frames in between."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import tyro

from flavr_jax import cli, render
from flavr_jax.typing import Frame
from flavr_jax.video.files import encoders, sinks
from flavr_jax.video.frames import ClipInfo, TimedFrame, parse_rate
from flavr_jax.video.pixels.colour import RGB, Colour

SRGB = Colour(matrix=RGB, levels=2, primaries=1, transfer=13)


@dataclass(frozen=True)
class Options:
    """Render a moving scene by path tracing. Every frame is rendered; none is interpolated."""

    scene: Annotated[str, tyro.conf.Positional] = "showcase"
    """A scene in TOML, or the name of one that ships: courtyard (the camera moves), juggling
    (objects move), showcase (both), glass (caustics), knot (a mesh)."""
    _: dataclasses.KW_ONLY
    output: str
    """A video (.mp4, .mov or .mkv), or a folder of PNG images if the name has no suffix."""
    frames: int = 24
    """Number of frames, not counting those added by --factor."""
    fps: str = "12"
    """Frames per second, such as 12 or 24000/1001."""
    start: float = 0.0
    """Time of the first frame in seconds."""
    size: tuple[int, int] = (256, 448)
    """Height and width in pixels."""
    samples: int = 64
    """Paths per pixel; four times as many halve the noise."""
    factor: int = 1
    """Render FACTOR - 1 frames inside each interval, at FACTOR times the frame rate."""
    seed: int = 0
    """Seed of the sampled light paths; all frames use the same seed, so that noise does not
    flicker."""
    encoding: Annotated[encoders.Encoding, tyro.conf.OmitArgPrefixes] = field(
        default_factory=encoders.Encoding
    )
    """Compression of the video."""
    overwrite: bool = False
    """Replace the output if it exists."""


def main(options: Options) -> None:
    """Render one clip."""
    for name in ("frames", "factor"):
        if getattr(options, name) < 1:
            raise ValueError(
                f"`{name}` is {getattr(options, name)}; it is at least 1. Use --{name} 1 or more."
            )
    height, width = options.size
    rate = parse_rate(options.fps) * options.factor
    count = (options.frames - 1) * options.factor + 1
    info = ClipInfo(width, height, rate, 1 / rate, count, colour=SRGB)
    scene = render.load(options.scene)
    renderer = render.Renderer(scene)

    def draw(index: int) -> Frame:
        moment = options.start + float(index / rate)
        image = renderer.render(
            moment, height=height, width=width, samples=options.samples, seed=options.seed
        )
        picture = render.tone_map(image.light, scene.exposure)
        return np.round(np.asarray(picture) * 255).astype(np.uint8)

    started = time.monotonic()
    sink = sinks.open_sink(
        options.output,
        info,
        source=None,
        encoding=options.encoding,
        overwrite=options.overwrite,
    )
    with sink, contextlib.closing(cli.track(range(count), count)) as indices:
        for index in indices:
            sink.write(TimedFrame(draw(index), index / rate, 1 / rate))
    print(f"{count} frames in {options.output}, {time.monotonic() - started:.1f} s")
