# SPDX-License-Identifier: Apache-2.0
"""Backward warping of two images by predicted fields, with all that surrounds it at each pixel.

A field has 8 values: a residual colour (3), the displacements (x, y) into the first and into the
second image, and the logit of the first image's weight. To mix an image from more look-ups, 6 more
values follow for each further pair of displacements: displacements relative to the first pair's
(4), and two logits, of which the first is added to that of the first image's weight. The weights of
all look-ups are then a softmax, in which the logit of the first look-up in the second image is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from pallas_kernels.core import device, dispatch
from pallas_kernels.core.dispatch import Candidate, Implementation
from pallas_kernels.hopper.warp.problem import FIELDS, PAIR
from pallas_kernels.warp import mosaic_gpu, reference, xla
from pallas_kernels.warp.arguments import (
    Convolved,
    RefineArguments,
    WarpAndMixArguments,
    WarpArguments,
)

__all__ = ["Convolved", "refine", "warp", "warp_and_mix"]

Some = TypeVar("Some", WarpArguments, WarpAndMixArguments)


def _xla(
    on_cpu: Callable[[Some], Array], elsewhere: Callable[[Some], Array]
) -> Callable[[Some], Array]:
    """The implementation for XLA, whose form depends on the device."""
    return lambda arguments: (on_cpu if device.is_cpu() else elsewhere)(arguments)


WARP: dict[Implementation, Candidate[WarpArguments, Array]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.warp, mosaic_gpu.why_not_in_16_bits, device.untried),
    "xla": Candidate(_xla(xla.warp, reference.warp)),
    "reference": Candidate(reference.warp),
}

WARP_AND_MIX: dict[Implementation, Candidate[WarpAndMixArguments, Array]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.warp_and_mix, mosaic_gpu.why_not, device.untried),
    "xla": Candidate(_xla(xla.warp_and_mix, reference.warp_and_mix)),
    "reference": Candidate(reference.warp_and_mix),
}


REFINE: dict[Implementation, Candidate[RefineArguments, Array]] = {
    "mosaic_gpu": Candidate(mosaic_gpu.refine, mosaic_gpu.why_not_to_refine, device.untried),
    "xla": Candidate(reference.refine),
    "reference": Candidate(reference.refine),
}


def refine(
    maps: Float[Array, "batch output height width values"],
    *corrections: Float[Array, "batch output _height _width values"],
    implementation: Implementation | None = None,
) -> Float[Array, "batch output height width values"]:
    """Maps plus corrections, which are enlarged to their size.

    Args:
        maps: images of any number of values per pixel.
        corrections: some times smaller; enlarged by bilinear interpolation between pixel centres.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: a size is not a multiple of a correction's, or no implementation has that name.
        NotImplementedError: the named implementation cannot run here.
    """
    if not corrections:
        return maps
    height, width = maps.shape[2:4]
    for small in (each.shape[2:4] for each in corrections):
        times = height // max(1, small[0])
        if (height, width) != (times * small[0], times * small[1]):
            raise ValueError(
                f"a correction has {small[1]}×{small[0]} pixels; {width}×{height} must be a whole "
                "number of times larger."
            )
    arguments = RefineArguments(maps=maps, corrections=corrections)
    return dispatch.call("refine", REFINE, implementation, arguments)


def warp(
    images: Float[Array, "batch 2 image_height image_width 3"],
    fields: Float[Array, "batch output field_height field_width values"],
    times: Float[np.ndarray, " output"] | Float[Array, "batch output"],
    *,
    unit: float = 1.0,
    first_row: Int[Array, ""] | int = 0,
    enlarged: int = 1,
    fold: int = 1,
    middle: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    implementation: Implementation | None = None,
) -> Float[Array, "batch output _height _width place channel"]:
    """Both images as the fields warp them, and the fields, as the input of a convolution.

    Args:
        images: the two images.
        fields: fields of each output, of 8 values.
        times: times of the outputs, from 0 (the first image) to 1 (the second). The first image is
            looked up at the displacement times ``t``, the second one at that times ``1 - t``.
        unit: factor of all displacements, which are then in pixels of the images.
        first_row: row of the images at the fields' first row; they may cover only a part.
        enlarged: how many times the fields are enlarged first, by bilinear interpolation between
            pixel centres. Their pixels are then those of the images.
        fold: ``fold × fold`` pixels become the places of one position.
        middle: subtracted from the colours.
        dtype: dtype of the result.
        implementation: see :data:`pallas_kernels.Implementation`.

    Returns:
        For each pixel the first image (3 channels), the second (3) and the field (8). The kernel
        adds channels of zeros, with which a convolution runs faster on a GPU.

    Raises:
        ValueError: shapes do not match, or no implementation has that name.
        NotImplementedError: the named implementation cannot run here.
    """
    height, width = (size * enlarged for size in fields.shape[2:4])
    if height % fold or width % fold:
        raise ValueError(f"fields have {width}×{height} pixels; `fold` = {fold} must divide both.")
    if fields.shape[-1] != FIELDS:
        raise ValueError(
            f"fields have {fields.shape[-1]} values; `warp` looks up one pair of displacements, so "
            f"give it the first {FIELDS}."
        )
    arguments = WarpArguments(
        images=images,
        fields=fields,
        times=_times(times, images, fields),
        unit=unit,
        first_row=first_row,
        enlarged=enlarged,
        fold=fold,
        middle=middle,
        dtype=jnp.dtype(dtype),
        implementation=implementation,
    )
    return dispatch.call("warp", WARP, implementation, arguments)


def warp_and_mix(
    images: Float[Array, "batch 2 image_height image_width 3"],
    fields: Float[Array, "batch output field_height field_width values"],
    times: Float[np.ndarray, " output"] | Float[Array, "batch output"],
    *,
    correction: Float[Array, "batch output _height _width place _values"] | Convolved | None = None,
    keep: Float[Array, "batch 1 image_height image_width 1"] | None = None,
    pairs: int = 1,
    cubic: bool = False,
    unit: float = 1.0,
    first_row: Int[Array, ""] | int = 0,
    enlarged: int = 1,
    top: Int[Array, ""] | int = 0,
    height: int | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "batch output height width 3"]:
    """New images between two images: both warped, mixed by weights, plus a residual colour.

    The weight of the first image is the sigmoid of the field's logit, shifted so that fields of
    zeros give the linear blend by time.

    Args:
        images: the two images.
        fields: fields of each output.
        times: see :func:`warp`; inside (0, 1).
        correction: added to the enlarged fields; the pixels of a position are its places. It alone
            may have the values of further pairs, and more, which do not count. A
            :class:`Convolved` is computed here; of images of 16 bits the kernel stores it in
            float16.
        keep: from 0 to 1, how far a pixel is the linear blend of both images without displacement.
        pairs: number of pairs of displacements.
        cubic: interpolate by :mod:`pallas_kernels.sample.cubic`, which blurs less than bilinear
            interpolation.
        unit: see :func:`warp`.
        first_row: see :func:`warp`.
        enlarged: see :func:`warp`.
        top: first row of the output, counted in rows of the enlarged fields.
        height: rows of the output; by default all.
        implementation: see :data:`pallas_kernels.Implementation`.

    Raises:
        ValueError: shapes do not match, or no implementation has that name.
        NotImplementedError: the named implementation cannot run here.
    """
    _check(images, fields, correction, keep, enlarged, pairs)
    arguments = WarpAndMixArguments(
        images=images,
        fields=fields[..., : FIELDS + PAIR * (pairs - 1)],
        times=_times(times, images, fields),
        unit=unit,
        first_row=first_row,
        enlarged=enlarged,
        correction=correction,
        keep=keep,
        top=top,
        height=fields.shape[2] * enlarged if height is None else height,
        pairs=pairs,
        cubic=cubic,
        dtype=fields.dtype,
        implementation=implementation,
    )
    return dispatch.call("warp_and_mix", WARP_AND_MIX, implementation, arguments)


def _check(
    images: Array,
    fields: Array,
    correction: Array | Convolved | None,
    keep: Array | None,
    enlarged: int,
    pairs: int,
) -> None:
    """Refuse shapes that do not match."""
    whole, width = (size * enlarged for size in fields.shape[2:4])
    known = fields.shape[-1]
    if isinstance(correction, Convolved):
        pixels = correction.images.shape[1] * correction.images.shape[2]
        places, rest = divmod(whole * width, pixels)
        known, more = divmod(correction.kernel.shape[-1], max(1, places))
        count = fields.shape[0] * fields.shape[1]
        if rest or more or correction.images.shape[0] != count:
            raise ValueError(
                f"`correction` convolves images of the shape {correction.images.shape} to "
                f"{correction.kernel.shape[-1]} channels; there must be {count} images, and the "
                f"channels must be the values of whole pixels of {width}×{whole} fields."
            )
    elif correction is not None:
        *size, places, known = correction.shape[2:]
        if size[0] * size[1] * places != whole * width:
            raise ValueError(
                f"`correction` has the shape {correction.shape}; its places must be the pixels of "
                f"{width}×{whole} fields."
            )
    if known < FIELDS + PAIR * (pairs - 1):
        raise ValueError(f"{pairs} pairs need {FIELDS + PAIR * (pairs - 1)} values, not {known}.")
    if width != images.shape[3] and keep is not None:
        raise ValueError(
            f"`keep` needs fields as wide as the images, and they have {width} pixels."
        )


def _times(
    times: Float[np.ndarray, " output"] | Float[Array, "batch output"],
    images: Float[Array, "..."],
    fields: Float[Array, "..."],
) -> Float[Array, "samples output"]:
    """``times`` with an axis of samples, after checks of the shapes."""
    if images.shape[1] != 2 or images.shape[-1] != 3 or fields.shape[-1] % PAIR != FIELDS - PAIR:
        raise ValueError(
            f"`images` have the shape {images.shape} and `fields` {fields.shape}; they must be "
            f"[batch, 2, height, width, 3] and [batch, output, height, width, {FIELDS}], or "
            f"{PAIR} more values for each further pair of displacements."
        )
    times = jnp.asarray(times, jnp.float32)
    return times[None] if times.ndim == 1 else times
