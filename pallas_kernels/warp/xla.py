# SPDX-License-Identifier: Apache-2.0
"""Both warps for CPUs, in loops that have vector instructions.

Results are those of the definition. XLA makes a loop for each array that it writes. A loop over
interleaved channels computes positions and weights again for each channel, without vector
instructions, so that every channel of a warped image is an array of its own until the end. Pixels
stay in the order of the convolutions' maps, position by position and place by place, in which the
enlarged fields are the output channels of a convolution with fixed weights.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from pallas_kernels.conv2d.xla import unpadded
from pallas_kernels.hopper.warp.problem import FIELDS, PAIR
from pallas_kernels.sample import cubic
from pallas_kernels.sample.xla import interleaved, look_up
from pallas_kernels.warp import reference
from pallas_kernels.warp.arguments import WarpAndMixArguments, WarpArguments

__all__ = ["warp", "warp_and_mix"]


class _Pixels(NamedTuple):
    """Fields of pixels in the order of positions, then places; one row has ``width · fold²``.

    Attributes:
        fields: their fields.
        column: of each pixel in a row of ``fields``.
        row: of each pixel.
    """

    fields: Float[Array, "batch output _height pixel values"]
    column: Float[np.ndarray, " pixel"]
    row: Float[np.ndarray, "_height pixel"]


def warp(arguments: WarpArguments) -> Float[Array, "batch output _height _width place 14"]:
    """See :func:`pallas_kernels.warp`."""
    fold = arguments.fold
    if fold not in (1, arguments.enlarged):
        return reference.warp(arguments)
    enlarged = arguments.enlarged if fold > 1 else 1
    fields = arguments.fields
    if fold == 1:
        fields = reference.enlarge(fields, arguments.enlarged)
    pixels = _pixels(fields, enlarged)
    places = _positions(arguments, pixels, arguments.first_row)
    planes = [
        look_up(arguments.images[:, side, ..., channel], *places[side]) - arguments.middle
        for side in (0, 1)
        for channel in range(3)
    ]
    # A barrier, because a convolution in int8 reads it twice, and XLA would make it twice.
    both = jnp.concatenate([interleaved(planes), pixels.fields], axis=-1)
    both = lax.optimization_barrier(both)
    batch, outputs, height, width = fields.shape[:4]
    return both.reshape(batch, outputs, height, width, fold**2, -1).astype(arguments.dtype)


def warp_and_mix(arguments: WarpAndMixArguments) -> Float[Array, "batch output height width 3"]:
    """See :func:`pallas_kernels.warp_and_mix`."""
    arguments = arguments.with_correction(arguments.dtype)
    correction, scale = arguments.correction, arguments.enlarged
    if isinstance(correction, Array) and correction.shape[4] == scale**2:
        pixels = _pixels(arguments.fields, scale)
        correction = correction[..., : arguments.values].reshape(*pixels.fields.shape[:-1], -1)
        more = correction.shape[-1] - pixels.fields.shape[-1]
        fields = jnp.pad(pixels.fields, (*((0, 0),) * 4, (0, more))) + correction
        pixels = pixels._replace(fields=fields)
    else:
        pixels, scale = _pixels(reference.corrected(arguments), 1), 1
    pixels = pixels._replace(fields=lax.optimization_barrier(pixels.fields))
    places = _positions(arguments, pixels, arguments.first_row)
    weights = reference.weights(arguments, pixels.fields)
    images = [arguments.images]
    if arguments.cubic:
        images += [cubic.second_differences(arguments.images, axis) for axis in (3, 2)]
    planes = []
    for channel in range(3):
        plane = pixels.fields[..., channel]
        for number, (place, weight) in enumerate(zip(places, weights)):
            shares = [weight, *(weight * each for each in _of_differences(arguments, place))]
            for image, share in zip(images, shares):
                plane = plane + look_up(image[:, number % 2, ..., channel], *place) * share
        planes.append(plane)
    mixed = interleaved(planes)
    mixed = mixed.reshape(*mixed.shape[:3], -1, scale**2, 3)
    mixed = reference.of_output(reference.unfolded(mixed), arguments)
    if arguments.keep is None:
        return mixed
    keep, blend = reference.kept(arguments)
    return mixed + keep * (blend - mixed)


def _of_differences(
    arguments: WarpAndMixArguments, place: tuple[Array, Array]
) -> list[Float[Array, "batch output _height pixel"]]:
    """Weights of the second differences across and down, if look-ups are cubic."""
    if not arguments.cubic:
        return []
    height, width = arguments.images.shape[2:4]
    return [cubic.weight(place[0], width), cubic.weight(place[1], height)]


def _positions(
    arguments: WarpArguments, pixels: _Pixels, first_row: Array | int
) -> list[tuple[Array, Array]]:
    """Columns and rows to look up, in the first and the second image, for each pair."""
    fields = pixels.fields
    rows = pixels.row + jnp.asarray(first_row, jnp.float32)
    further = range(FIELDS, fields.shape[-1], PAIR)
    places = []
    for start in (None, *further):
        for side in (0, 1):
            moved = [fields[..., 3 + 2 * side + n] for n in (0, 1)]
            if start is not None:
                moved = [each + fields[..., start + 2 * side + n] for n, each in enumerate(moved)]
            reach = arguments.reach[..., side, None, None]
            places.append((pixels.column + moved[0] * reach, rows + moved[1] * reach))
    return places


def _pixels(fields: Float[Array, "batch output _height _width values"], scale: int) -> _Pixels:
    """Enlarged fields, with ``scale × scale`` pixels at each position."""
    batch, outputs, height, width, values = fields.shape
    place = np.arange(scale, dtype=np.float32)
    column = np.arange(width, dtype=np.float32)[:, None, None] * scale + place
    row = np.arange(height, dtype=np.float32)[:, None, None, None] * scale + place[:, None]
    column, row = np.broadcast_arrays(column, row)  # [height, width, scale, scale]
    column, row = column[0].reshape(-1), row.reshape(height, -1)
    if scale == 1:
        return _Pixels(fields, column, row)
    ends = ((0, 0), (1, 1), (1, 1), (0, 0))
    beyond = jnp.pad(fields.reshape(-1, height, width, values), ends, mode="edge")
    large = unpadded(beyond, jnp.asarray(_enlargement(scale, values)), fields.dtype)
    large = lax.optimization_barrier(large.reshape(batch, outputs, height, -1, values))
    return _Pixels(large, column, row)


def _enlargement(scale: int, values: int) -> Float[np.ndarray, "3 3 values channel"]:
    """The weights of bilinear interpolation between pixel centres, as a kernel."""
    taps = np.zeros((3, scale), np.float32)
    for part in range(scale):
        # Distance of the new pixel's centre from that of the old one, in old pixels.
        below, share = divmod((part + 0.5) / scale - 0.5, 1)
        taps[int(below) + 1, part] += 1 - share
        taps[int(below) + 2, part] += share
    each = np.eye(values, dtype=np.float32)
    return np.einsum("yp,xq,ij->yxipqj", taps, taps, each).reshape(3, 3, values, -1)
