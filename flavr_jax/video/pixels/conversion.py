# SPDX-License-Identifier: Apache-2.0
"""Conversion between the planes of a picture and RGB, as programs for any device.

The samples of all planes travel as one array, so a frame takes one transfer to a GPU and one back,
of 1.5 bytes a pixel for 4:2:0 in 8 bits.

Each direction is the exact inverse of the other: chroma is upsampled linearly on the way in, and
downsampled on the way out by the filter that undoes this (at co-sited samples the analysis filter
of the LeGall 5/3 wavelet). Devices round the last place of a float32 sum differently; where a value
lies midway between two levels, a CPU and a GPU may therefore differ by one level.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8, UInt16

from flavr_jax.video.pixels.layout import Layout

__all__ = ["Conversion", "Form", "Numbers", "Samples", "on_host"]

Samples: TypeAlias = UInt8[np.ndarray, " samples"] | UInt16[np.ndarray, " samples"]
"""The samples of all planes of a picture: plane after plane, each row by row."""

Plane = TypeVar("Plane", Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Form:
    """The static part of a conversion: a program is compiled for each value.

    Matrix, levels and depth are arguments instead, so few programs serve all combinations.

    Attributes:
        layout: of the planes; its depth is that of the arrays, 8 or 16 bits.
        on_column: whether chroma samples lie on a luma column, not between two.
        on_row: likewise for rows.
    """

    layout: Layout
    on_column: bool
    on_row: bool

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return height and width of each plane of a picture of ``size`` (height, width)."""
        layout = self.layout
        if layout.kind == "yuv":
            # The chroma size of an odd side is rounded up.
            across, down = (2**finer for finer in layout.chroma)
            shapes = [size, *[(-(-size[0] // down), -(-size[1] // across))] * 2]
        else:
            shapes = [size] * (3 if layout.kind == "rgb" else 1)
        return shapes + [size] * layout.alpha


class Numbers(NamedTuple):
    """The numeric part of a conversion: weights of the matrix, and levels of the samples.

    Attributes:
        kr: weight of red in luma.
        kb: weight of blue in luma.
        black: luma of RGB 0.
        middle: chroma of grey.
        luma: number of levels from RGB 0 to RGB 1.
        chroma: number of levels between the extremes of chroma.
        top: the highest level that a sample can hold.
    """

    kr: float
    kb: float
    black: float
    middle: float
    luma: float
    chroma: float
    top: float


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion between planes and RGB.

    Attributes:
        form: its static part.
        numbers: its numeric part.
    """

    form: Form
    numbers: Numbers

    def decode(self, samples: Array | Samples, size: tuple[int, int]) -> Array:
        """Return RGB or RGBA ``[height, width, channel]`` of ``size`` (height, width).

        The result is on the device that holds ``samples``; it has the type of the samples and
        spans that type's full range.
        """
        with _where(samples):
            return _decode(samples, self._beside(samples), self.form, size)

    def encode(self, pixels: Array | np.ndarray) -> Array:
        """Return the samples of RGB or RGBA pictures ``[…, height, width, channel]``.

        Alpha that the planes need and the pixels lack is opaque. The result ``[…, sample]`` is on
        the device that holds ``pixels``.
        """
        with _where(pixels):
            return _encode(pixels, self._beside(pixels), self.form)

    def decode_few(
        self, planes: list[np.ndarray]
    ) -> UInt8[np.ndarray, "*shape channel"] | UInt16[np.ndarray, "*shape channel"]:
        """Return RGB or RGBA of a few pixels, whose planes all have the same shape.

        NumPy computes it, because a call of a program takes longer than so few pixels.
        """
        kind = planes[0].dtype
        mixed = self.decode_values([plane.astype(np.float32) for plane in planes])
        most = np.float32(np.iinfo(kind).max)
        # Channel after channel in memory: NumPy is many times slower over a short last axis.
        few = np.empty((len(mixed), *planes[0].shape), kind)
        for target, plane in zip(few, mixed):
            scaled = np.clip(plane, 0, 1)
            scaled *= most
            target[...] = np.rint(scaled, out=scaled)
        return np.moveaxis(few, 0, -1)

    def decode_values(
        self, planes: list[Float[np.ndarray, "*shape"]]
    ) -> list[Float[np.ndarray, "*shape"]]:
        """Return red, green and blue, and alpha if there is any, of planes of float32 samples.

        Values of the samples' range lie between 0 and 1. Values outside it are not clipped.
        """
        numbers, layout = Numbers(*self._values), self.form.layout
        return _mixed(_relative(planes, numbers, layout), numbers, layout)

    def split(self, samples: Samples, size: tuple[int, int]) -> list[np.ndarray]:
        """Return a view of each plane, ``[height, width]``."""
        start, planes = 0, []
        for shape in self.form.shapes(size):
            end = start + math.prod(shape)
            planes.append(samples[start:end].reshape(shape))
            start = end
        return planes

    def _beside(self, array: Array | np.ndarray) -> Array | np.ndarray:
        """Return the numbers on the device of an array, where each call would copy them to."""
        if isinstance(array, np.ndarray):
            return self._values
        (device,) = array.devices()
        if device not in self._placed:
            with _where(array):
                self._placed[device] = jax.device_put(self._values)
        return self._placed[device]

    @functools.cached_property
    def _placed(self) -> dict[Any, Array]:
        """The numbers on each device that has converted pictures."""
        return {}

    @functools.cached_property
    def _values(self) -> np.ndarray:
        return np.array(self.numbers, np.float32)


def on_host() -> contextlib.AbstractContextManager:
    """Return a context in which programs run on the CPU, where files are decoded and encoded."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # a JAX_PLATFORMS without cpu
        return contextlib.nullcontext()


def _where(array: Array | np.ndarray) -> contextlib.AbstractContextManager:
    """Return a context in which programs run where an array is.

    Arrays that were put on the default device of that moment do not tie a program to it.
    """
    if isinstance(array, np.ndarray):
        return contextlib.nullcontext()
    (device,) = array.devices()
    return jax.default_device(device)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _decode(samples: Array, values: Array, form: Form, size: tuple[int, int]) -> Array:
    numbers, layout = Numbers(*values), form.layout  # pyright: ignore[reportArgumentType]
    shapes, start, planes = form.shapes(size), 0, []
    for shape in shapes:
        end = start + math.prod(shape)
        planes.append(samples[start:end].reshape(shape).astype(jnp.float32))
        start = end
    planes = _relative(planes, numbers, layout)
    if layout.kind == "yuv":
        # Rows first here, columns first in _encode: an inverse applies its steps in reverse.
        for axis, on_sample in ((0, form.on_row), (1, form.on_column)):
            if layout.chroma[1 - axis]:
                planes[1:3] = (_finer(plane, axis, on_sample) for plane in planes[1:3])
        # The chroma size of an odd side is rounded up, so upsampling gives one row or column too
        # many.
        planes[1:3] = (plane[: size[0], : size[1]] for plane in planes[1:3])
    pixels = jnp.stack(_mixed(planes, numbers, layout), axis=-1)
    return jnp.rint(jnp.clip(pixels, 0, 1) * jnp.iinfo(samples.dtype).max).astype(samples.dtype)


def _relative(planes: list[Plane], numbers: Numbers, layout: Layout) -> list[Plane]:
    """Return planes relative to their levels: luma, colours and alpha from 0 to 1, chroma to ±½."""
    chroma = range(1, 3) if layout.kind == "yuv" else ()
    relative = [
        (plane - numbers.middle) / numbers.chroma
        if index in chroma
        else (plane - numbers.black) / numbers.luma
        for index, plane in enumerate(planes[: len(planes) - layout.alpha])
    ]
    return relative + [plane / numbers.top for plane in planes[len(relative) :]]


def _mixed(planes: list[Plane], numbers: Numbers, layout: Layout) -> list[Plane]:
    """Return red, green and blue, and alpha if there is any, from relative planes of one size."""
    colours, alpha = planes[: len(planes) - layout.alpha], planes[len(planes) - layout.alpha :]
    if layout.kind == "rgb":
        green, blue, red = colours
    elif layout.kind == "yuv":
        luma, cb, cr = colours
        # The inverse of the definitions in ITU-T H.273: luma = kr·red + (1 − kr − kb)·green +
        # kb·blue, cr = (red − luma) / (2 (1 − kr)), cb = (blue − luma) / (2 (1 − kb)).
        red = luma + 2 * (1 - numbers.kr) * cr
        blue = luma + 2 * (1 - numbers.kb) * cb
        green = luma - numbers.kr * red - numbers.kb * blue
        green = green / (1 - numbers.kr - numbers.kb)
    else:
        red = green = blue = colours[0]
    return [red, green, blue, *alpha]


@functools.partial(jax.jit, static_argnums=2)
def _encode(pixels: Array, values: Array, form: Form) -> Array:
    numbers, layout = Numbers(*values), form.layout  # pyright: ignore[reportArgumentType]
    most = jnp.float32(jnp.iinfo(pixels.dtype).max)
    red, green, blue, *alpha = (pixels[..., c] / most for c in range(pixels.shape[-1]))
    planes = [part * numbers.luma + numbers.black for part in (green, blue, red)]
    if layout.kind != "rgb":
        kr, kb = numbers.kr, numbers.kb
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        planes = [luma * numbers.luma + numbers.black]
        if layout.kind == "yuv":
            chroma = [(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))]
            for axis, on_sample in ((-1, form.on_column), (-2, form.on_row)):
                if layout.chroma[-1 - axis]:
                    chroma = [_coarser(plane, axis, on_sample) for plane in chroma]
            planes += [plane * numbers.chroma + numbers.middle for plane in chroma]
    if layout.alpha:
        planes.append((alpha[0] if alpha else jnp.ones_like(red)) * numbers.top)
    kind = jnp.uint8 if layout.bits == 8 else jnp.uint16
    rounded = [jnp.rint(jnp.clip(plane, 0, numbers.top)).astype(kind) for plane in planes]
    return jnp.concatenate([one.reshape(*one.shape[:-2], -1) for one in rounded], axis=-1)


def _finer(plane: Array, axis: int, on_sample: bool) -> Array:
    """Double the samples along an axis by linear interpolation.

    With ``on_sample``, every other new sample lies on an old one; otherwise each old sample lies
    midway between two new ones.
    """
    before, after = _shifted(plane, axis, -1), _shifted(plane, axis, 1)
    if on_sample:
        pair = [plane, (plane + after) / 2]
    else:
        # The new samples lie a quarter of the old spacing from the old one.
        pair = [(3 * plane + before) / 4, (3 * plane + after) / 4]
    shape = list(plane.shape)
    shape[axis] *= 2
    return jnp.stack(pair, axis + 1).reshape(shape)


def _coarser(plane: Array, axis: int, on_sample: bool) -> Array:
    """Halve the samples along an axis, so that ``_coarser(_finer(x)) == x``."""
    # Filters of unit gain (after the division by 8). Interpolation followed by the filter gives
    # weight 1 to the sample itself and 0 to all others.
    taps = (-1, 2, 6, 2, -1) if on_sample else (0, -2, 6, 6, -2)
    axis %= plane.ndim
    padding = [(0, 0)] * plane.ndim
    # Five taps reach two samples to either side; the chroma size of an odd side is rounded up.
    padding[axis] = (2, 2 + plane.shape[axis] % 2)
    padded = jnp.pad(plane, padding, mode="edge")
    length = padded.shape[axis] - 4
    parts = [
        weight * padded[(slice(None),) * axis + (slice(k, k + length, 2),)]
        for k, weight in enumerate(taps)
        if weight
    ]
    return functools.reduce(jnp.add, parts) / 8


def _shifted(plane: Array, axis: int, step: int) -> Array:
    """Return, for each sample, the sample ``step`` further along an axis; border samples repeat."""
    padding = [(0, 0)] * plane.ndim
    padding[axis] = (max(0, -step), max(0, step))
    start = max(0, step)
    inside = (slice(None),) * axis + (slice(start, start + plane.shape[axis]),)
    return jnp.pad(plane, padding, mode="edge")[inside]
