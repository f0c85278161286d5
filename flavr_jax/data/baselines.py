# SPDX-License-Identifier: Apache-2.0
"""What a network has to beat: frame averaging, and ffmpeg's motion-compensated interpolation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import av.filter
import numpy as np
from jaxtyping import Float

from flavr_jax.data.protocols import Protocol
from flavr_jax.typing import Frames

__all__ = ["average", "has_minterpolate", "minterpolate"]

_RATE = 25  # frames per second that minterpolate is told; any rate gives the same frames


def average(
    frames: Frames, protocol: Protocol
) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """The two middle inputs of each window, mixed by time."""
    times = (np.arange(1, protocol.factor, dtype=np.float32) / protocol.factor)[:, None, None, None]
    for inputs, _ in protocol.windows(frames):
        before, after = inputs[1:3].astype(np.float32) / 255
        yield before[None] * (1 - times) + after[None] * times


def has_minterpolate() -> bool:
    """Whether this build of PyAV has ffmpeg's filter of that name."""
    return "minterpolate" in av.filter.filters_available


def minterpolate(
    frames: Frames, protocol: Protocol
) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """The ``minterpolate`` filter of ffmpeg at its best settings, fed every input of a sequence.

    Raises:
        ValueError: when this PyAV was built without the filter.
    """
    if not has_minterpolate():
        raise ValueError("this build of PyAV has no minterpolate filter; leave that row out.")
    factor = protocol.factor
    dense = _filtered(frames[::factor], factor)
    for start in protocol.starts(len(frames)):
        between = range(start + factor + 1, start + 2 * factor)
        yield np.stack([dense[index] for index in between]).astype(np.float32) / 255


def _filtered(inputs: Frames, factor: int) -> dict[int, np.ndarray]:
    """The filter's output frames by their index at ``factor`` times the rate."""
    height, width = inputs.shape[1:3]
    graph, rgb = av.filter.Graph(), av.VideoFormat("rgb24", width, height)
    source = graph.add_buffer(width=width, height=height, format=rgb, time_base=Fraction(1, _RATE))
    options = f"fps={factor * _RATE}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"
    chain = [
        source,
        graph.add("format", "yuv420p"),
        graph.add("minterpolate", options),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for upstream, downstream in itertools.pairwise(chain):
        upstream.link_to(downstream)
    graph.configure()
    outputs: dict[int, np.ndarray] = {}

    def drain() -> None:
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            seconds = Fraction(frame.pts or 0) * (frame.time_base or Fraction(1))
            outputs[round(seconds * factor * _RATE)] = frame.to_ndarray()

    for index, picture in enumerate(inputs):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, _RATE)
        graph.push(frame)
        drain()
    graph.push(None)
    drain()
    return outputs
