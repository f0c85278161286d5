# SPDX-License-Identifier: Apache-2.0
"""The look-up as the Hopper kernels see it: matrices with a row for each pixel, and a gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32

from pallas_kernels.core import device
from pallas_kernels.hopper.sample.kernel import differentiate, mix
from pallas_kernels.hopper.sample.problem import CHANNELS, SampleProblem
from pallas_kernels.sample import xla

__all__ = ["sample", "stored", "why_not"]

Images = Float32[Array, "batch source image_height image_width channel"]
Displacements = Float32[Array, "batch output source height width 2"]
Weights = Float32[Array, "batch output source height width"]
Outputs = Float32[Array, "batch output height width channel"]

_LARGEST = 2**31  # rows are numbered in 32 bits


def why_not(images: Array, displacements: Array, *others: Array | None) -> str | None:
    """Reason why the kernel cannot run here on these arguments; None if it can."""
    reason = device.why_not(wgmma=False)
    if reason is not None:
        return reason
    arrays = [images, displacements, *(each for each in others if each is not None)]
    dtypes = {each.dtype.name for each in arrays}
    if dtypes != {"float32"}:
        return f"it needs float32 throughout, and got {' and '.join(sorted(dtypes))}"
    channels = images.shape[-1]
    if channels > CHANNELS:
        return f"it needs at most {CHANNELS} channels, and got {channels}"
    if displacements.size // 2 * max(2, channels) >= _LARGEST:
        return f"it needs fewer than 2³¹ values, and got displacements of {displacements.shape}"
    return None


@jax.custom_vjp
def sample(
    images: Images, displacements: Displacements, weights: Weights, residual: Outputs | None
) -> Outputs:
    """See :func:`pallas_kernels.sample`."""
    problem = _problem(images, displacements)
    return _mix(problem, images, displacements, weights, residual)


def _forward(
    images: Images, displacements: Displacements, weights: Weights, residual: Outputs | None
) -> tuple[Outputs, tuple[Images, Displacements, Weights, tuple[()] | None]]:
    mixed = sample(images, displacements, weights, residual)
    return mixed, (images, displacements, weights, None if residual is None else ())


def _backward(
    saved: tuple[Images, Displacements, Weights, tuple[()] | None], gradient: Outputs
) -> tuple[Images, Displacements, Weights, Outputs | None]:
    images, displacements, weights, added = saved
    problem = _problem(images, displacements)
    of_displacements, of_weights = _differentiate(problem, images, displacements, weights, gradient)
    # A scatter; XLA removes it where images have no gradient, as those of a loader.
    _, pull_back = jax.vjp(lambda images: xla.sample(images, displacements, weights), images)
    (of_images,) = pull_back(gradient)
    return of_images, of_displacements, of_weights, None if added is None else gradient


sample.defvjp(_forward, _backward)


def _problem(images: Images, displacements: Displacements) -> SampleProblem:
    batch, sources, image_height, image_width, channels = images.shape
    _, outputs, _, height, width, _ = displacements.shape
    return SampleProblem(
        batch=batch,
        outputs=outputs,
        sources=sources,
        image_height=image_height,
        image_width=image_width,
        height=height,
        width=width,
        channels=channels,
        sm_count=device.sm_count(),
        interpret=device.interpreting(),
    )


@functools.partial(jax.jit, static_argnums=0)
def _mix(
    problem: SampleProblem,
    images: Images,
    displacements: Displacements,
    weights: Weights,
    residual: Outputs | None,
) -> Outputs:
    mixed = mix(
        problem,
        stored(images),
        _rows(problem, displacements, 2),
        _rows(problem, weights, 1),
        None if residual is None else _rows(problem, residual, problem.channels),
    )
    shape = problem.batch, problem.outputs, problem.height, problem.width, problem.channels
    return _cropped(problem, mixed, shape)


@functools.partial(jax.jit, static_argnums=0)
def _differentiate(
    problem: SampleProblem,
    images: Images,
    displacements: Displacements,
    weights: Weights,
    gradient: Outputs,
) -> tuple[Displacements, Weights]:
    of_displacements, of_weights = differentiate(
        problem,
        stored(images),
        _rows(problem, displacements, 2),
        _rows(problem, weights, 1),
        _rows(problem, gradient, problem.channels),
    )
    return (
        _cropped(problem, of_displacements, displacements.shape),
        _cropped(problem, of_weights, weights.shape),
    )


def _rows(problem: SampleProblem, x: Array, columns: int) -> Float32[Array, "rows columns"]:
    """One row for each pixel of all output images, which are padded if they are tiny."""
    size = problem.height * problem.width
    missing = problem.pixels - size
    x = x.reshape(-1, size, columns)
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0))).reshape(-1, columns)


def _cropped(
    problem: SampleProblem, x: Float32[Array, "rows columns"], shape: tuple[int, ...]
) -> Array:
    """Inverse of :func:`_rows`."""
    x = x.reshape(-1, problem.pixels, x.shape[-1])
    return x[:, : problem.height * problem.width].reshape(shape)


def stored(images: Images) -> Float32[Array, "images_x_pixels 4"]:
    """Images with padded pixels; usually one pass with the operation that made them."""
    missing = CHANNELS - images.shape[-1]
    return jnp.pad(images, (*((0, 0),) * 4, (0, missing))).reshape(-1, CHANNELS)
