# SPDX-License-Identifier: Apache-2.0
"""conv2d on Hopper's tensor cores: an implicit GEMM over clips of one frame.

Few output channels would leave most of a tensor core idle. In this case the horizontal taps are
split into groups, each with output channels of its own, and the groups' sums are then shifted and
added up.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Float32

from pallas_kernels.conv2d import reference
from pallas_kernels.core.arguments import Conv2dArguments, Padding
from pallas_kernels.core.epilogue import Activation, finish
from pallas_kernels.core.feature_map import FeatureMap
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.conv.kernel import implicit_gemm
from pallas_kernels.hopper.geometry import Geometry
from pallas_kernels.hopper.gradients import Gemm, Parameters, differentiable
from pallas_kernels.hopper.resident.kernel import convolve as convolve_resident
from pallas_kernels.hopper.resident.kernel import plan_for as plan_resident

__all__ = ["conv2d", "why_not"]

_FEW_CHANNELS = 32
_MAX_GROUPED = 64  # most output channels of all groups: more would cost too much memory traffic
_CHUNK = 32  # input channels; with chunks of 16 the kernel takes more than twice as long
_MOST_TAPS_TOGETHER = 5  # in height or width; with more, groups of taps take fewer products
_MULTIPLE = 16  # the kernel needs a multiple of this many output channels; zeros are added


def why_not(arguments: Conv2dArguments) -> str | None:
    """Reason why this cannot run here on these arguments; None if it can."""
    channels = [x.values.shape[-1] for x in arguments.inputs]
    return launch.why_not(arguments.inputs, arguments.kernel, channels=channels)


def conv2d(arguments: Conv2dArguments) -> FeatureMap:
    """See :func:`pallas_kernels.conv2d`; its gradient is in ``hopper/gradients.py``."""
    padding, activation, out_dtype = (
        arguments.padding, arguments.activation, arguments.out_dtype,
    )  # fmt: skip
    kh, kw, _, channels = arguments.kernel.shape
    low = None if padding == "reflect" else (kh // 2, kw // 2)

    def forward(given: Parameters) -> FeatureMap:
        arrays = tuple(x.values for x in given.inputs)
        apart = padding == "reflect" or max(kh, kw) > _MOST_TAPS_TOGETHER
        if (
            kw > 1
            and channels < _FEW_CHANNELS
            and (apart or not _takes_few(arrays, kh, kw, channels, out_dtype))
        ):
            sums = _shifted_sums(arrays, given.unquantized, padding)
            added = None if given.residual is None else given.residual.values
            finished = finish(sums, given.bias, residual=added, activation=activation)
            return FeatureMap(finished.astype(out_dtype))
        if padding == "reflect":
            arrays = tuple(_mirrored(x, kh // 2, kw // 2) for x in arrays)
        return FeatureMap(_convolve(arrays, given, activation, out_dtype, low=low))

    prepare = functools.partial(_as_gemm, padding=padding)

    def in_training(given: Parameters) -> FeatureMap:
        # The backward pass needs the padded image in any case.
        arrays = tuple(x.values[:, 0] for x in prepare(given.inputs, given.unquantized).inputs)
        return FeatureMap(_convolve(arrays, given, activation, out_dtype, low=low))

    run = differentiable(forward, prepare, activation, in_training=in_training)
    residual = None if arguments.residual is None else FeatureMap(arguments.residual)
    return run(Parameters(arguments.inputs, arguments.kernel, arguments.bias, residual=residual))


def _as_gemm(
    inputs: tuple[FeatureMap, ...], kernel: Float[Array, "kh kw depth channel"], padding: Padding
) -> Gemm:
    """The convolution as :func:`implicit_gemm` runs it: over clips of one frame."""
    kh, kw, _, channels = kernel.shape
    _, height, width, _ = inputs[0].values.shape
    low = (0, kh // 2, kw // 2)
    arrays = tuple(x.values for x in inputs)
    if padding == "reflect":
        low = (0, 0, 0)
        # The kernel itself can only pad with zeros.
        arrays = tuple(_mirrored(x, kh // 2, kw // 2) for x in arrays)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, -channels % _MULTIPLE)))
    arrays, kernel = _in_whole_chunks(arrays, kernel)
    # Images are clips of one frame.
    clips = tuple(FeatureMap(x[:, None]) for x in arrays)
    return Gemm(clips, kernel[None], Geometry((1, kh, kw), low), (1, height, width))


def _in_whole_chunks(
    arrays: tuple[Float[Array, "batch in_height in_width _"], ...],
    kernel: Float[Array, "kh kw depth channel"],
) -> tuple[tuple[Array, ...], Array]:
    """A single input of more than one chunk, and the kernel, with zeros that fill the last chunk.

    For training alone: the convolution gains what the longer pass that makes the input loses, but
    its gradients take half the time.
    """
    missing = -kernel.shape[2] % _CHUNK
    if len(arrays) > 1 or kernel.shape[2] <= _CHUNK or not missing:
        return arrays, kernel
    return tuple(_between(x, 3, 0, missing) for x in arrays), _between(kernel, 2, 0, missing)


def _mirrored(
    x: Float[Array, "batch height width channel"], *reach: int
) -> Float[Array, "batch padded_height padded_width channel"]:
    """``x`` with ``reach`` more rows and columns on each side, mirrored.

    It is computed as a sum of three padded arrays for each axis, which XLA fuses into one pass,
    also in the backward pass; concatenation would take a pass for each axis.
    """
    for axis, count in enumerate(reach, 1):
        size = x.shape[axis]
        first = jnp.flip(lax.slice_in_dim(x, 1, count + 1, axis=axis), axis)
        last = jnp.flip(lax.slice_in_dim(x, size - count - 1, size - 1, axis=axis), axis)
        parts = ((first, 0, count + size), (x, count, count), (last, count + size, 0))
        x = functools.reduce(jnp.add, (_between(part, axis, *zeros) for part, *zeros in parts))
    return x


def _between(x: Array, axis: int, before: int, after: int) -> Array:
    """``x`` with zeros before and after it along an axis."""
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def _convolve(
    arrays: tuple[Float[Array, "batch in_height in_width _"], ...],
    given: Parameters,
    activation: Activation,
    out_dtype: jnp.dtype,
    *,
    low: tuple[int, int] | None,
) -> Float[Array, "batch height width channel"]:
    """Run the convolution on the GPU kernel.

    Args:
        arrays: images; already padded if ``low`` is None, else as large as the output.
        given: kernel, bias and residual; its inputs are not read.
        activation: applied last.
        out_dtype: dtype of the output.
        low: rows and columns of zero padding before the images, which the kernel adds.
    """
    kernel, bias, residual = given.unquantized, given.bias, given.residual
    kh, kw, _, channels = kernel.shape
    height, width = arrays[0].shape[1:3]
    if low is None:
        height, width, low = height - kh + 1, width - kw + 1, (0, 0)
    # In training the image may have more channels, which are zero; see `_in_whole_chunks`.
    more = sum(x.shape[3] for x in arrays) - kernel.shape[2]
    kernel = _between(kernel, 2, 0, more)
    resident = None
    if len(arrays) == 1:
        resident = plan_resident(
            arrays[0], (kh, kw), _stored(channels, out_dtype, residual), (height, width), low,
            samples=0 if residual is None else residual.values.shape[0],
            activation=activation, out_dtype=out_dtype,
        )  # fmt: skip
    # The kernels store multiples of 8 or 16 channels; the added ones are cut off below.
    missing = (-channels % _MULTIPLE) if resident is None else resident.channels - channels
    kernel = _between(kernel, 3, 0, missing)
    if bias is not None:
        bias = jnp.pad(bias, (0, missing))
    added = None
    if residual is not None:
        # The kernel adds a residual of the inputs' dtype.
        added = _between(residual.values, 3, 0, missing).astype(arrays[0].dtype)
    if resident is not None:
        output = convolve_resident(resident, arrays[0], kernel, bias, added)
        return output[..., :channels]
    output, _ = implicit_gemm(
        tuple(x[:, None] for x in arrays),
        kernel[None],
        Geometry((1, kh, kw), (0, *low)),
        (1, height, width),
        offset=launch.scale_and_offset(None, bias)[1],
        residual=None if added is None else added[:, None],
        activation=activation,
        out_dtype=out_dtype,
    )
    return output[:, 0, :, :, :channels]


def _stored(channels: int, out_dtype: DTypeLike, residual: FeatureMap | None = None) -> int:
    """Channels that the kernel with resident weights stores: rows of at least 32 bytes.

    So are the rows of a residual, which it reads in 16 bits.
    """
    narrowest = jnp.dtype(out_dtype).itemsize if residual is None else 2
    return channels + -channels % (32 // narrowest)


def _takes_few(
    arrays: tuple[Float[Array, "batch height width _"], ...],
    kh: int,
    kw: int,
    channels: int,
    out_dtype: jnp.dtype,
) -> bool:
    """True if the kernel with resident weights computes so few channels without groups of taps."""
    low, stored = (kh // 2, kw // 2), _stored(channels, out_dtype)
    size = arrays[0].shape[1], arrays[0].shape[2]
    found = plan_resident(arrays[0], (kh, kw), stored, size, low, out_dtype=out_dtype)
    return len(arrays) == 1 and found is not None


def _shifted_sums(
    arrays: tuple[Float[Array, "batch height width _"], ...],
    kernel: Float[Array, "kh kw depth channel"],
    padding: Padding,
) -> Float32[Array, "batch height width channel"]:
    """The convolution's sums, from separate sums of groups of horizontal taps."""
    kh, kw, depth, channels = kernel.shape
    height, width = arrays[0].shape[1:3]
    if height < kh or width < kw:
        arrays = tuple(reference.pad(x, kernel, padding) for x in arrays)
        # In images smaller than the kernel, every output pixel needs padding.
        return _convolve(arrays, Parameters((), kernel), None, jnp.dtype("float32"), low=None)
    taps = _taps_together(kw, channels)
    groups = -(-kw // taps)
    # Zero taps are added before the first group, and the last tap of a group reads the pixel
    # itself. So pixels away from the border only need sums at positions inside the image.
    lacking = groups * taps - kw
    apart = jnp.pad(kernel, ((0, 0), (lacking, 0), (0, 0), (0, 0)))
    apart = apart.reshape(kh, groups, taps, depth, channels).transpose(0, 2, 3, 4, 1)
    # The groups of a channel lie side by side, so that reading one output frame, which is made of
    # a few channels, gives long contiguous runs.
    apart = apart.reshape(kh, taps, depth, channels * groups)
    sums = _convolve(
        arrays, Parameters((), apart), None, jnp.dtype("float32"), low=(kh // 2, taps - 1)
    )
    sums = sums.reshape(*sums.shape[:3], channels, groups)
    # With one tap per group, sums over a mirrored image are the mirrored sums.
    mode = "reflect" if taps == 1 and padding == "reflect" else "constant"
    sums = jnp.pad(sums, ((0, 0), (0, 0), (kw // 2, kw // 2), (0, 0), (0, 0)), mode=mode)
    starts = (taps - 1 - lacking + taps * group for group in range(groups))
    shifted = (sums[:, :, start : start + width, :, group] for group, start in enumerate(starts))
    sums = functools.reduce(jnp.add, shifted)
    if taps > 1:
        sums = _with_borders(sums, 2, arrays, kernel, padding)
    return _with_borders(sums, 1, arrays, kernel, padding) if padding == "reflect" else sums


def _taps_together(kw: int, channels: int) -> int:
    """Number of horizontal taps in a group: as few as :data:`_MAX_GROUPED` channels allow."""
    return -(-kw // max(1, _MAX_GROUPED // channels))


def _with_borders(
    sums: Float32[Array, "batch height width channel"],
    axis: int,
    arrays: tuple[Float[Array, "batch height width _"], ...],
    kernel: Float[Array, "kh kw depth channel"],
    padding: Padding,
) -> Float32[Array, "batch height width channel"]:
    """``sums`` with both ends of an axis replaced by convolutions of padded strips.

    Only strips are padded, because padding whole images would copy them.
    """
    reach, size = kernel.shape[axis - 1] // 2, sums.shape[axis]
    if reach == 0:
        return sums
    cut = functools.partial(lax.slice_in_dim, axis=axis)
    # Both ends are one batch, for a single launch.
    both_ends = (
        jnp.concatenate([cut(x, 0, 2 * reach), cut(x, size - 2 * reach, size)]) for x in arrays
    )
    strips = tuple(reference.pad(x, kernel, padding) for x in both_ends)
    found = _convolve(strips, Parameters((), kernel), None, jnp.dtype("float32"), low=None)
    before, after = jnp.split(found, 2)
    parts = cut(before, 0, reach), cut(sums, reach, size - reach), cut(after, reach, 2 * reach)
    return jnp.concatenate(parts, axis=axis)
