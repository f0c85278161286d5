# SPDX-License-Identifier: Apache-2.0
"""Baselines for a network: repeating, averaging, optical flow, an ffmpeg filter, and RIFE."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import av
import av.error
import av.filter
import numpy as np
from jaxtyping import Float

from flavr_jax.data.sequences import Picture, Pictures, Sequence
from flavr_jax.evaluation import rife

__all__ = ["BASELINES", "available", "average", "check", "flow_warp", "minterpolate", "repeat"]

_RATE = 25  # frames per second; minterpolate gives the same frames at any rate


def repeat(sequence: Sequence) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """Yield the nearer of the two middle inputs; the earlier one half-way between them."""
    for _, before, after, _ in sequence.windows():
        frames = [before if 2 * k <= sequence.factor else after for k in range(1, sequence.factor)]
        yield np.stack(frames).astype(np.float32) / 255


def average(sequence: Sequence) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """Yield averages of the two middle inputs of each window, weighted linearly in time."""
    for _, before, after, _ in sequence.windows():
        pair = np.stack([before, after]).astype(np.float32) / 255
        yield np.stack([pair[0] * (1 - t) + pair[1] * t for t in _times(sequence.factor)])


def flow_warp(sequence: Sequence) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """Yield the two middle inputs warped by DIS optical flow and averaged, linearly in time.

    The flow at a time is interpolated from the two flows between the inputs, as in Super SloMo.
    Occlusion is not handled.

    Raises:
        ModuleNotFoundError: OpenCV is not installed.

    References:
        Jiang et al. 2018, https://arxiv.org/abs/1712.00080
    """
    import cv2

    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for _, before, after, _ in sequence.windows():
        # DIS matches patches of brightness; it takes one channel of 8 bits.
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
        empty = np.zeros((*grey[0].shape, 2), np.float32)
        forth = finder.calc(grey[0], grey[1], empty.copy())
        back = finder.calc(grey[1], grey[0], empty.copy())
        y, x = np.mgrid[: grey[0].shape[0], : grey[0].shape[1]].astype(np.float32)

        # Defaults bind x and y of this window; a closure would see those of the last one.
        def warp(frame: Picture, flow: np.ndarray, x: np.ndarray = x, y: np.ndarray = y):  # noqa: ANN202
            place = x + flow[..., 0], y + flow[..., 1]
            return cv2.remap(
                frame, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            ).astype(np.float32)

        # t² · back − t (1 − t) · forth is the flow from time t to the input before it, and
        # (1 − t)² · forth − t (1 − t) · back that to the input after it.
        yield np.stack(
            [
                (1 - t) / 255 * warp(before, t * t * back - t * (1 - t) * forth)
                + t / 255 * warp(after, (1 - t) ** 2 * forth - t * (1 - t) * back)
                for t in _times(sequence.factor)
            ]
        ).astype(np.float32)


def minterpolate(sequence: Sequence) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """Yield the frames that ffmpeg's ``minterpolate`` makes of a sequence at its best settings.

    Raises:
        ValueError: this PyAV was built without the filter.
    """
    if "minterpolate" not in av.filter.filters_available:
        raise ValueError(
            "this build of PyAV has no minterpolate filter; leave it out of --baselines."
        )
    factor = sequence.factor
    inputs = np.stack([sequence.read(index) for index in sequence.inputs])
    dense = _filtered(inputs, factor)
    for window in range(len(sequence)):
        between = range((window + 1) * factor + 1, (window + 2) * factor)
        yield np.stack([dense[index] for index in between]).astype(np.float32) / 255


BASELINES: dict[str, Callable[[Sequence], Iterator[np.ndarray]]] = {
    "nearest-frame": repeat,
    "frame-averaging": average,
    "dis-flow-warp": flow_warp,
    "ffmpeg-minterpolate": minterpolate,
    rife.NAME: rife.interpolate,
}
"""All baselines, by their names in tables."""


def check(names: Iterable[str]) -> None:
    """Raise a ValueError if one of the names is not a baseline's."""
    if unknown := sorted(set(names) - set(BASELINES)):
        known = ", ".join(map(repr, BASELINES))
        raise ValueError(f"unknown baseline {', '.join(unknown)}; known are {known}.")


def available(name: str) -> bool:
    """Return whether a baseline can run here; three need optional packages or a filter."""
    if name == rife.NAME:
        return rife.available()
    if name == "dis-flow-warp":
        return importlib.util.find_spec("cv2") is not None
    return name != "ffmpeg-minterpolate" or "minterpolate" in av.filter.filters_available


def _times(factor: int) -> list[float]:
    return [k / factor for k in range(1, factor)]


def _filtered(inputs: Pictures, factor: int) -> dict[int, np.ndarray]:
    """Run the filter, and return its frames by their index at ``factor`` times the rate."""
    height, width = inputs.shape[1:3]
    graph, rgb = av.filter.Graph(), av.VideoFormat("rgb24", width, height)
    source = graph.add_buffer(width=width, height=height, format=rgb, time_base=Fraction(1, _RATE))
    # Without scd=none the filter takes large motion for a cut, and repeats frames there.
    options = f"fps={factor * _RATE}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"
    chain = [
        source,
        graph.add("format", "yuv420p"),  # the filter has no RGB
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
            # The filter may leave frames out at the ends, so frames are numbered by their time.
            seconds = Fraction(frame.pts or 0) * (frame.time_base or Fraction(1))
            outputs[round(seconds * factor * _RATE)] = frame.to_ndarray()

    for index, picture in enumerate(inputs):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, _RATE)
        graph.push(frame)
        drain()
    graph.push(None)  # end of the stream: the filter lets go of the frames that it holds
    drain()
    return outputs
