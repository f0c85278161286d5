# SPDX-License-Identifier: Apache-2.0
"""Times of the look-up alone: pixels of two images at smooth displacements, mixed and added up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from flavr_jax.models.layers import Implementation, sample
from flavr_jax.profiling.comparison import Row
from flavr_jax.profiling.timing import CallTimes, Ceilings, measure

__all__ = ["bytes_moved", "compare", "roofline"]

_REACH = 8.0  # pixels, standard deviation of the displacements
_GRID = 16  # pixels between independent displacements; between them they are interpolated


def compare(
    implementations: Iterable[Implementation], batch: int, size: tuple[int, int], repeats: int
) -> Iterator[Row]:
    """Time look-ups for 7 outputs, and training steps of them, in float32.

    A step computes the gradients of displacements, weights and residual for a mean L1 loss.

    Args:
        implementations: those to time; each gives two rows.
        batch: samples per call.
        size: height and width of the images in pixels.
        repeats: number of timed calls.
    """
    arrays = _arrays(batch, size)
    for implementation in implementations:
        for name, function in _functions(implementation):
            call = functools.partial(jax.jit(function), *arrays)
            timing = measure(call, jax.block_until_ready, repeats)
            yield Row(f"{name} {implementation}", timing, None)


def roofline(batch: int, size: tuple[int, int], ceilings: Ceilings) -> Row:
    """Return the time of a look-up at the speed of a copy, as a row."""
    least = 1e-9 * bytes_moved(batch, size) / ceilings.terabytes
    return Row("look-up, roofline of bytes", CallTimes((least, least), least), None)


def bytes_moved(batch: int, size: tuple[int, int]) -> int:
    """Return the bytes of a look-up's arguments and result, each counted once."""
    arrays = jax.eval_shape(lambda: _arrays(batch, size))
    return sum(4 * each.size for each in (*arrays, arrays[3]))


def _functions(
    implementation: Implementation,
) -> list[tuple[str, Callable[[Array, Array, Array, Array], Array | tuple[Array, ...]]]]:
    """Return a look-up and a training step of it, by name."""

    def look_up(images: Array, displacements: Array, weights: Array, residual: Array) -> Array:
        return sample(
            images, displacements, weights, residual=residual, implementation=implementation
        )

    def step(images: Array, *others: Array) -> tuple[Array, ...]:
        def loss(*others: Array) -> Array:
            return jnp.abs(look_up(images, *others) - 0.5).mean()

        return jax.grad(loss, (0, 1, 2))(*others)

    return [("look-up", look_up), ("look-up, step", step)]


def _arrays(batch: int, size: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Images, displacements, weights and a residual, drawn at random."""
    sources, outputs, channels = 2, 7, 3
    keys = jax.random.split(jax.random.key(0), 4)
    pairs = (batch, outputs, sources)
    coarse = tuple(max(1, pixels // _GRID) for pixels in size)
    grid = _REACH * jax.random.normal(keys[0], (*pairs, *coarse, 2))
    return (
        jax.random.uniform(keys[1], (batch, sources, *size, channels)),
        jax.image.resize(grid, (*pairs, *size, 2), "linear"),
        jax.random.uniform(keys[2], (*pairs, *size)),
        jax.random.normal(keys[3], (batch, outputs, *size, channels)),
    )
