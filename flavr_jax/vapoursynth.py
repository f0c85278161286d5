# SPDX-License-Identifier: Apache-2.0
"""FLAVR as a function of VapourSynth, with the conventions of vs-rife.

A frame depends on the four source frames around its time and on nothing else, so frames may be
requested in any order. All frames of an interval come out of one call of the network; the newest
intervals are kept, because a player asks for one frame after the other.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import flavr_jax
from flavr_jax.extras import install_command
from flavr_jax.inference.interpolator import Interpolator

try:
    # By this name, type checkers would find the present module.
    vs: Any = importlib.import_module("vapoursynth")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"VapourSynth is not installed: {install_command('vapoursynth')} (Python 3.12 or newer)."
    ) from error

__all__ = ["interpolate"]

VideoNode: TypeAlias = Any
VideoFrame: TypeAlias = Any

_KEPT_INTERVALS = 4
_CUT = "_SceneChangeNext"


def interpolate(
    clip: VideoNode,
    factor: int | None = None,
    *,
    fps_num: int | None = None,
    fps_den: int = 1,
    network: Interpolator | str | Path | None = None,
) -> VideoNode:
    """Raise the frame rate of a clip; give either ``factor`` or ``fps_num`` and ``fps_den``.

    Source frames are returned unchanged at their times. Other times are rounded to those that the
    network predicts: eighths of an interval for the bundled one. After a frame whose property
    ``_SceneChangeNext`` is set (``misc.SCDetect`` sets it) the frame is repeated, and no frame is
    made from both sides of the cut.

    Args:
        clip: RGBS or RGBH of constant size and rate; convert with ``resize.Bicubic``.
        factor: a divisor of the network's factor; 2, 4 or 8 for the bundled one.
        fps_num: numerator of the new frame rate, which is not below the clip's.
        fps_den: denominator of the new frame rate.
        network: a loaded network or its checkpoint directory; by default the bundled one.

    Returns:
        A clip of the same format, with ``_DurationNum`` and ``_DurationDen`` of the new rate.

    Raises:
        vapoursynth.Error: the clip or the rate does not suit; the message has the remedy.
    """
    if clip.format is None or clip.format.id not in (vs.RGBS, vs.RGBH):
        raise vs.Error("flavr: `clip` is not RGBS or RGBH; use resize.Bicubic(format=vs.RGBS).")
    if not clip.width or not clip.height or not clip.fps:
        raise vs.Error("flavr: the size or the rate of `clip` varies; use AssumeFPS or resize it.")
    if not isinstance(network, Interpolator):
        network = flavr_jax.load(network)
    ratio = _ratio(clip, factor, fps_num, fps_den, network)
    if network.config.n_inputs != 4:
        raise vs.Error("flavr: the network does not take 4 frames; use another checkpoint.")
    # Shifted clips: source frames i − 1, i, i + 1 and i + 2 have the same number.
    longer = vs.core.std.Splice([clip[0], clip, clip[-1], clip[-1]])
    context = [longer[shift : shift + clip.num_frames] for shift in range(4)]
    stretched = [_stretch(each, ratio) for each in context]
    count = int((clip.num_frames - 1) * ratio) + 1
    make = _Selector(network, ratio, clip.num_frames)
    made = vs.core.std.ModifyFrame(stretched[1], clips=stretched, selector=make)[:count]
    fps = ratio * Fraction(clip.fps.numerator, clip.fps.denominator)
    return vs.core.std.AssumeFPS(made, fpsnum=fps.numerator, fpsden=fps.denominator)


def _ratio(
    clip: VideoNode,
    factor: int | None,
    fps_num: int | None,
    fps_den: int,
    network: Interpolator,
) -> Fraction:
    """Return the new rate divided by the clip's."""
    if (factor is None) == (fps_num is None):
        raise vs.Error("flavr: give either `factor` or `fps_num` (and `fps_den`).")
    if factor is not None:
        if factor < 2 or network.factor % factor:
            raise vs.Error(
                f"flavr: `factor` is {factor}; this network makes divisors of {network.factor}. "
                "Use one of them, or `fps_num` for any rate."
            )
        return Fraction(factor)
    if not fps_num or fps_num < 0 or fps_den < 1:
        raise vs.Error(f"flavr: {fps_num}/{fps_den} is no frame rate; both numbers are above 0.")
    ratio = Fraction(fps_num, fps_den) / Fraction(clip.fps.numerator, clip.fps.denominator)
    if ratio < 1:
        raise vs.Error(f"flavr: {fps_num}/{fps_den} is below the clip's rate {clip.fps}.")
    return ratio


def _stretch(clip: VideoNode, ratio: Fraction) -> VideoNode:
    """Repeat frames so that frame n is the clip's frame ⌊n / ratio⌋."""
    repeated = vs.core.std.Interleave([clip] * ratio.numerator)
    if ratio.denominator == 1:
        return repeated
    return vs.core.std.SelectEvery(repeated, cycle=ratio.denominator, offsets=0)


class _Selector:
    """Makes frame n of the new clip from the four source frames around it."""

    def __init__(self, network: Interpolator, ratio: Fraction, n_frames: int) -> None:
        self._network, self._ratio, self._n_frames = network, ratio, n_frames
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # one call of the network at a time

    def __call__(self, n: int, f: Sequence[VideoFrame]) -> VideoFrame:
        position = n / self._ratio
        index = int(position)
        part = round((position - index) * self._network.factor)
        if part == 0 or index == self._n_frames - 1 or f[1].props.get(_CUT):
            return f[1]
        if part == self._network.factor:
            return f[2]
        with self._lock:
            if index not in self._kept:
                self._kept[index] = self._interval(index, f)
                if len(self._kept) > _KEPT_INTERVALS:
                    self._kept.popitem(last=False)
            pixels = self._kept[index][part - 1]
        frame = f[1].copy()
        for plane in range(3):
            np.asarray(frame[plane])[...] = pixels[..., plane]
        return frame

    def _interval(self, index: int, f: Sequence[VideoFrame]) -> np.ndarray:
        """Predict all frames inside an interval: [n_outputs, height, width, 3], clipped."""
        before, first, second, after = map(_pixels, f)
        # A frame beyond an end of the clip or a cut continues the change from its neighbours.
        if index == 0 or f[0].props.get(_CUT):
            before = np.clip(2 * first - second, 0, 1)
        if index + 2 >= self._n_frames or f[2].props.get(_CUT):
            after = np.clip(2 * second - first, 0, 1)
        made = self._network.predict(np.stack([before, first, second, after])[None])[0]
        return np.clip(np.asarray(made), 0, 1)


def _pixels(frame: VideoFrame) -> np.ndarray:
    """Return a frame as float32 [height, width, 3]."""
    return np.stack([np.asarray(frame[plane]) for plane in range(3)], -1).astype(np.float32)
