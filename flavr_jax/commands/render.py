# SPDX-License-Identifier: Apache-2.0
"""Render a scene: a clip to interpolate, and the true frames in between.

``flavr render showcase --output clip.mp4 --every 4 --interpolate`` renders every fourth frame and
interpolates the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import flavr_jax
from flavr_jax import cli, render
from flavr_jax.commands import interpolation, render_report
from flavr_jax.inference import devices, interpolator, stream
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.inference.options import Resources
from flavr_jax.inference.passes import AtOnce
from flavr_jax.progress import Reporter
from flavr_jax.render.denoise import DENOISERS, Denoiser
from flavr_jax.typing import Frame
from flavr_jax.video.files import encoders, sinks
from flavr_jax.video.frames import ClipInfo, TimedFrame, parse_rate
from flavr_jax.video.journal.job import Job, digest_of_folder, fingerprint
from flavr_jax.video.pixels.colour import RGB, Colour

SRGB = Colour(matrix=RGB, levels=2, primaries=1, transfer=13)
_SEGMENT = 24  # frames of a video that are encoded together


@dataclass(frozen=True)
class Options:
    """Render a moving scene by path tracing.

    If a run is interrupted, the same command goes on after the finished frames.
    """

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
    """Add FACTOR - 1 frames inside each interval, at FACTOR times the frame rate."""
    seed: int = 0
    """Seed of the sampled light paths; all frames use the same seed, so that noise does not
    flicker."""
    denoise: Denoiser = "no"
    """Remove noise: oidn is Open Image Denoise, which needs the package pyoidn; filter is an
    edge-avoiding filter that runs on the GPU."""
    every: int = 1
    """With --interpolate, render every EVERY-th frame only."""
    interpolate: tuple[Path, ...] | None = None
    """Interpolate the frames that are not rendered. May be followed by a checkpoint directory; the
    bundled one is the default."""
    truth: int = 0
    """With --interpolate, also render every frame that is interpolated, with --samples and with
    this many paths per pixel. The latter is the truth with which both are compared, in
    NAME_report.json and NAME_report.png beside the output."""
    devices: str = "all"
    """Number of GPUs to use, or all."""
    encoding: Annotated[encoders.Encoding, tyro.conf.OmitArgPrefixes] = field(
        default_factory=encoders.Encoding
    )
    """Compression of the video."""
    overwrite: bool = False
    """Replace the output if it exists."""

    @property
    def count(self) -> int:
        """Number of frames of the output."""
        return (self.frames - 1) * self.factor + 1

    @property
    def rate(self) -> Fraction:
        """Frames per second of the output."""
        return parse_rate(self.fps) * self.factor


@dataclass
class Painter:
    """Renders the frames of a clip, and notes how long each took.

    Attributes:
        renderer: scene and devices.
        options: settings of the clip.
        seconds: seconds of each frame.
    """

    renderer: render.Renderer
    options: Options
    seconds: list[float] = field(default_factory=list)

    def draw(self, index: int) -> Frame:
        """Render a frame with the clip's settings."""
        started = time.perf_counter()
        options = self.options
        frame = self._draw(index, options.samples, options.seed, options.denoise)
        self.seconds.append(time.perf_counter() - started)
        return frame

    def truth(self, index: int) -> Frame:
        """Render a frame as the truth: other random numbers, and nothing is filtered."""
        return self._draw(index, self.options.truth, self.options.seed + 1, "no")

    def _draw(self, index: int, samples: int, seed: int, denoise: Denoiser) -> Frame:
        height, width = self.options.size
        moment = self.options.start + float(index / self.options.rate)
        image = self.renderer.render(moment, height=height, width=width, samples=samples, seed=seed)
        light = image.light if denoise == "no" else jnp.asarray(DENOISERS[denoise](image))
        picture = render.tone_map(light, self.renderer.scene.exposure)
        return np.asarray(jnp.round(picture * 255).astype(jnp.uint8))


def main(options: Options) -> None:
    """Render one clip."""
    _check(options)
    height, width = options.size
    rate = options.rate
    info = ClipInfo(width, height, rate, 1 / rate, options.count, colour=SRGB)
    scene = render.load(options.scene)
    painter = Painter(render.Renderer(scene, tuple(devices.choose(options.devices))), options)
    network = None if options.interpolate is None else _network(options)
    report = Reporter()
    names = render_report.names(options.output) if options.truth else []
    for name in names:
        if name.exists() and not options.overwrite:
            raise FileExistsError(f"{name} exists. Use --overwrite or another --output.")
    started = time.monotonic()
    sink = sinks.open_sink(
        options.output,
        info,
        source=None,
        encoding=options.encoding,
        overwrite=options.overwrite,
        job=_job(options, scene),
    )
    done = interpolation.tell_of_resuming(report, sink)
    study = render_report.Study(options.every, options.samples, options.truth)
    with interpolation.explained_rest(sink), sink:
        frames = _frames(painter, network, done)
        with contextlib.closing(cli.track(frames, options.count)) as tracked:
            for index, (frame, seconds) in enumerate(tracked):
                sink.write(TimedFrame(frame, index / rate, 1 / rate))
                study.seconds.append(seconds)
                if options.truth and index % options.every:
                    study.compare(index, frame, painter.draw(index), painter.truth(index))
    print(f"{options.count} frames in {options.output}, {time.monotonic() - started:.1f} s")
    if network is not None:
        study.rendered = painter.seconds
        result = study.result(options.count, f"{width}×{height}, {network.runs_on}")
        print(render_report.text(result))
        if options.truth:
            settings = {"options": repr(options), "runs_on": network.runs_on, **_versions()}
            render_report.write(result | settings, *names)
            print(f"report in {names[0]} and {names[1]}")


def _check(options: Options) -> None:
    """Raise a ValueError for options that do not fit."""
    for name in ("frames", "factor", "every", "samples"):
        if getattr(options, name) < 1:
            raise ValueError(
                f"`{name}` is {getattr(options, name)}; it is at least 1. Use --{name} 1 or more."
            )
    Resources(devices=options.devices)
    if (options.every > 1) != (options.interpolate is not None):
        raise ValueError(
            f"`every` is {options.every}, {'with' if options.every == 1 else 'without'} "
            "--interpolate; use --every 2 or more together with --interpolate."
        )
    if options.truth and options.interpolate is None:
        raise ValueError(f"`truth` is {options.truth} without --interpolate; add it.")
    if options.interpolate is not None and len(options.interpolate) > 1:
        raise ValueError(
            f"`interpolate` has {len(options.interpolate)} checkpoints; give one or none."
        )
    if options.every > 1 and (options.count % options.every != 1 or options.count == 1):
        raise ValueError(
            f"{options.count} frames do not end with a rendered one; their number is 1 more than "
            f"a multiple of `every`, {options.every}. Use another --frames."
        )


def _network(options: Options) -> Interpolator:
    """Load the network, and prepare it for the clip.

    Raises:
        ValueError: it cannot make the frames in between.
    """
    network = interpolator.load(*(options.interpolate or ()))
    passes = network.passes(options.every)
    network.fit(*options.size, max(passes), Resources(devices=options.devices))
    return network


def _frames(
    painter: Painter, network: Interpolator | None, done: int
) -> Iterator[tuple[Frame, float]]:
    """Yield the clip's frames, and the seconds spent on each apart from rendering.

    Args:
        painter: renders frames.
        network: interpolates the others; None to render all.
        done: number of frames that are not needed; other pixels stand in their places.
    """
    options = painter.options
    blank = np.zeros((*options.size, 3), np.uint8)
    # The frames around those to be made are rendered again, because the network needs them.
    context = 0 if network is None else options.every * (network.config.n_inputs + 1)

    def keys() -> Iterator[TimedFrame]:
        for index in range(0, options.count, options.every):
            frame = painter.draw(index) if index >= done - context else blank
            yield TimedFrame(frame, index / options.rate, options.every / options.rate)

    frames: Iterator[TimedFrame] = keys()
    if network is not None:
        motion = stream.Options(factor=options.every, cut="ignore")
        frames = iter(
            stream.fetched(stream.interpolate(frames, AtOnce(network), motion, done=done))
        )
    while True:
        started, rendered = time.perf_counter(), sum(painter.seconds)
        frame = next(frames, None)
        if frame is None:
            return
        pixels = frame.pixels
        yield pixels, time.perf_counter() - started - (sum(painter.seconds) - rendered)


def _job(options: Options, scene: render.Scene) -> Job | None:
    """Return what the clip depends on; None if it has to be made in one go."""
    if options.truth or options.output == "-":
        return None
    folder = Path(scene.folder)
    files = [*scene.meshes, *scene.images, *filter(None, [scene.environment.image])]
    settings = dataclasses.replace(options, scene="", output="", overwrite=False, devices="1")
    network = (options.interpolate or (DEFAULT_CHECKPOINT,))[0]
    facts = {
        "scene": repr(dataclasses.replace(scene, folder="")),
        "files": repr({name: fingerprint(folder / name) for name in files}),
        "settings": repr(settings),
        "checkpoint": "" if options.interpolate is None else digest_of_folder(network),
        "device": jax.devices()[0].device_kind,
        **_versions(),
    }
    return Job(facts, _SEGMENT if sinks.is_video_name(options.output) else 1)


def _versions() -> dict[str, str]:
    return {"flavr_jax": flavr_jax.__version__, "jax": jax.__version__, "av": av.__version__}
