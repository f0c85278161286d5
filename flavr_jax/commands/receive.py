# SPDX-License-Identifier: Apache-2.0
"""Receive a stream with one frame in K, and restore the others while it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from flavr_jax import cli
from flavr_jax.bandwidth.receiver import Receiver, restored
from flavr_jax.config import Cut, Precision
from flavr_jax.inference import interpolator
from flavr_jax.inference.options import Resources
from flavr_jax.inference.pipeline import Pipeline
from flavr_jax.video.files import encoders, sinks


@dataclasses.dataclass(frozen=True)
class Options:
    """Receive what ``flavr send`` sends, and restore the dropped frames.

    The stream ends when the sender says so (RTP), or when nothing has arrived for some time.
    """

    source: Positional[str]
    """URL to listen at, such as rtp://0.0.0.0:5000, or a file."""
    output: Positional[str]
    """A video, a folder of images, - for Y4M to a player through a pipe, or null: for none."""
    drop: int = 2
    """K of the sender."""
    buffer: float = 0.0
    """Show each frame this many seconds after its time, to hide delays that vary; 0 shows frames
    as soon as they are ready."""
    timeout: float = 5.0
    """Seconds without data after which the stream has ended."""
    cut: Cut = "ignore"
    """What is shown between the two frames at a cut: hold shows the nearer one, blend mixes them;
    ignore does not look for cuts. Finding them delays all frames by 3 sent frames."""
    size: tuple[int, int] | None = None
    """Height and width of the stream, to compile the network before listening; otherwise the first
    frames wait until it is compiled."""
    checkpoint: Path | None = None
    """Checkpoint directory; the bundled one by default."""
    precision: Precision = "auto"
    """Number format that the network computes in."""
    encoding: Annotated[encoders.Encoding, OmitArgPrefixes] = dataclasses.field(
        default_factory=encoders.Encoding
    )
    """Compression of the output."""
    overwrite: bool = False
    """Replace the output if it exists."""


def main(options: Options) -> None:
    """Receive until the stream ends."""
    network = interpolator.load(options.checkpoint, precision=options.precision)
    if options.size is not None:
        height, width = options.size
        network.fit(height, width, network.factor, Resources())
        blank = np.zeros((network.config.n_inputs, height, width, 3), np.uint8)
        np.asarray(network.between(blank, network.passes(network.factor)[0]))
    _say(f"listening at {options.source}")
    receiver = Receiver(options.source, timeout=options.timeout)
    with contextlib.closing(receiver):
        sent = receiver.info
        info = dataclasses.replace(sent, rate=sent.rate * options.drop)
        network.fit(info.height, info.width, network.factor, Resources())
        ahead = network.config.n_inputs // 2
        text = (
            f"{info.width}×{info.height}, {float(sent.rate):.5g} → {float(info.rate):.5g} frames/s"
        )
        if receiver.reception.live:
            text += (
                f"; latency: at least {float(ahead / sent.rate):.3f} s, because {ahead} sent "
                f"frames are read ahead; buffer: {options.buffer:.3f} s"
            )
        _say(text)
        sink = sinks.open_sink(
            options.output,
            info,
            source=None,
            encoding=options.encoding,
            overwrite=options.overwrite,
        )
        with sink, Pipeline("show") as pipeline:
            frames = restored(receiver, network, options.drop, pipeline, cut=options.cut)
            with contextlib.closing(cli.track(frames, None)) as tracked:
                for frame in tracked:
                    sink.write(receiver.shown(frame, options.buffer))
    _say(str(receiver.reception))


def _say(text: str) -> None:
    # Standard output may carry the video.
    print(text, file=sys.stderr, flush=True)
