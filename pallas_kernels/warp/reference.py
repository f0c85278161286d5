# SPDX-License-Identifier: Apache-2.0
"""The definition of both warps, from :func:`pallas_kernels.sample` and maps at full size."""

from __future__ import annotations

import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from pallas_kernels.hopper.warp.problem import FIELDS, PAIR
from pallas_kernels.sample import cubic
from pallas_kernels.sample.api import sample
from pallas_kernels.warp.arguments import RefineArguments, WarpAndMixArguments, WarpArguments

__all__ = [
    "corrected", "enlarge", "kept", "of_output", "refine", "unfolded", "warp", "warp_and_mix",
    "weights",
]  # fmt: skip

Fields: TypeAlias = Float[Array, "batch output height width values"]


def warp(arguments: WarpArguments) -> Float[Array, "batch output _height _width place 14"]:
    """See :func:`pallas_kernels.warp`."""
    images, fold = arguments.images, arguments.fold
    fields = enlarge(arguments.fields, arguments.enlarged)
    batch, outputs, height, width, _ = fields.shape
    displacements = _displacements(arguments, fields)
    # Each of the two images on its own, with weight 1.
    ones = jnp.ones((batch, outputs, 1, height, width))
    warped = [
        sample(
            images[:, n : n + 1],
            displacements[:, :, n : n + 1],
            ones,
            implementation=arguments.implementation,
        )
        for n in range(2)
    ]
    both = jnp.concatenate([*(each - arguments.middle for each in warped), fields], axis=-1)
    shape = (batch, outputs, height // fold, fold, width // fold, fold, both.shape[-1])
    places = (batch, outputs, height // fold, width // fold, fold * fold, both.shape[-1])
    return both.reshape(shape).swapaxes(3, 4).reshape(places).astype(arguments.dtype)


def warp_and_mix(arguments: WarpAndMixArguments) -> Float[Array, "batch output height width 3"]:
    """See :func:`pallas_kernels.warp_and_mix`."""
    arguments = arguments.with_correction(arguments.dtype)
    fields = of_output(corrected(arguments), arguments)
    displacements = _displacements(arguments, fields, arguments.top)
    mixed, residual = jnp.stack(weights(arguments, fields), axis=2), fields[..., :3]
    if arguments.keep is not None:
        keep, blend = kept(arguments)
        mixed = mixed * (1 - keep[:, :, None, ..., 0])
        residual = (1 - keep) * residual + keep * blend
    # Every pair of displacements is into the same two images.
    images = jnp.concatenate([arguments.images] * (mixed.shape[2] // 2), axis=1)
    given = images, displacements, mixed
    if arguments.cubic:
        given = cubic.sources(*given)
    return sample(*given, residual=residual, implementation=arguments.implementation)


def corrected(arguments: WarpAndMixArguments) -> Fields:
    """The fields, enlarged and corrected by a correction whose values are there."""
    fields = enlarge(arguments.fields, arguments.enlarged)
    if arguments.correction is not None:
        assert isinstance(arguments.correction, Array)
        correction = unfolded(arguments.correction[..., : arguments.values])
        more = correction.shape[-1] - fields.shape[-1]
        fields = jnp.pad(fields, (*((0, 0),) * 4, (0, more))) + correction
    return fields


def of_output(
    maps: Float[Array, "batch output _height width channel"], arguments: WarpAndMixArguments
) -> Float[Array, "batch output height width channel"]:
    """The rows that are wanted."""
    if arguments.height == maps.shape[2]:
        return maps
    return lax.dynamic_slice_in_dim(maps, arguments.top, arguments.height, axis=2)


def kept(
    arguments: WarpAndMixArguments,
) -> tuple[Float[Array, "batch 1 height width 1"], Float[Array, "batch output height width 3"]]:
    """``keep``, and the linear blend that it keeps, for the rows that are wanted."""
    assert arguments.keep is not None
    first = arguments.first_row + arguments.top
    pair, keep = (
        lax.dynamic_slice_in_dim(maps, first, arguments.height, axis=2)
        for maps in (arguments.images, arguments.keep)
    )
    share = arguments.times[..., None, None, None]
    return keep, pair[:, :1] * (1 - share) + pair[:, 1:] * share


def _displacements(
    arguments: WarpArguments, fields: Fields, top: Array | int = 0
) -> Float[Array, "batch output source height width 2"]:
    """Displacements in pixels of the images, counted from the fields' positions."""
    first = fields[..., 3:7]
    both = [first, *(first + each[..., :4] for each in _further(fields))]
    every = [each[..., side : side + 2] for each in both for side in (0, 2)]
    reach = jnp.concatenate([arguments.reach] * len(both), axis=-1)
    displacements = jnp.stack(every, axis=2) * reach[..., None, None, None]
    row = jnp.asarray(arguments.first_row + top, jnp.float32)
    return displacements + jnp.stack([jnp.zeros(()), row])


def weights(
    arguments: WarpArguments, fields: Fields
) -> list[Float[Array, "batch output height width"]]:
    """Weights of the two images, for each pair of displacements."""
    logit = fields[..., 7] + arguments.logits[..., None, None]
    further = _further(fields)
    if not further:
        mask = jax.nn.sigmoid(logit)
        return [mask, 1 - mask]
    logits = [logit, jnp.zeros_like(logit)]
    for each in further:
        logits += [logit + each[..., 4], each[..., 5]]
    # A softmax, image by image.
    largest = functools.reduce(jnp.maximum, logits)
    shares = [jnp.exp(each - lax.stop_gradient(largest)) for each in logits]
    total = functools.reduce(jnp.add, shares)
    return [each / total for each in shares]


def _further(fields: Fields) -> list[Float[Array, "batch output height width 6"]]:
    """The values of each further pair of displacements."""
    return [fields[..., n : n + PAIR] for n in range(FIELDS, fields.shape[-1], PAIR)]


def refine(arguments: RefineArguments) -> Fields:
    """See :func:`pallas_kernels.refine`."""
    maps = arguments.maps
    for correction, times in zip(arguments.corrections, arguments.times):
        maps = maps + enlarge(correction, times)
    return maps


def unfolded(
    correction: Float[Array, "batch output _height _width place channel"],
) -> Float[Array, "batch output height width channel"]:
    """The ``fold × fold`` places of each position as pixels."""
    batch, outputs, height, width, places, channels = correction.shape
    fold = round(places**0.5)
    pixels = correction.reshape(batch, outputs, height, width, fold, fold, channels)
    return pixels.swapaxes(3, 4).reshape(batch, outputs, height * fold, width * fold, channels)


def enlarge(
    maps: Float[Array, "batch output _height _width channel"], scale: int
) -> Float[Array, "batch output height width channel"]:
    """Maps ``scale`` times larger, by bilinear interpolation between pixel centres."""
    if scale == 1:
        return maps
    # As sums of shifted maps: jax.image.resize multiplies by dense matrices in float32, for which
    # XLA compiles and times many kernels on a GPU.
    return _longer(_longer(maps, scale, axis=2), scale, axis=3)


def _longer(
    maps: Float[Array, "batch output _height _width channel"], scale: int, axis: int
) -> Float[Array, "batch output _height _width channel"]:
    """Maps with ``scale`` times as many rows or columns, interpolated linearly."""
    length = maps.shape[axis]
    ends = [(int(each == axis),) * 2 for each in range(maps.ndim)]
    beyond = jnp.pad(maps, ends, mode="edge")
    parts = []
    for part in range(scale):
        # Distance of the new pixel's centre from that of the old one, in old pixels.
        below, share = divmod((part + 0.5) / scale - 0.5, 1)
        first = 1 + int(below)
        one, next_one = (
            lax.slice_in_dim(beyond, start, start + length, axis=axis)
            for start in (first, first + 1)
        )
        parts.append((1 - share) * one + share * next_one)
    shape = (*maps.shape[:axis], length * scale, *maps.shape[axis + 1 :])
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
