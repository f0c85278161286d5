# SPDX-License-Identifier: Apache-2.0
"""The programs that an interpolator runs on a device, compiled once for each size."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flavr_jax import program_cache
from flavr_jax.config import ModelConfig
from flavr_jax.inference import precompute, tiles
from flavr_jax.inference.precision import SOURCES
from flavr_jax.inference.tiles import Tiling
from flavr_jax.models import flavr

__all__ = ["Programs", "between", "bucket", "padded", "predict"]


_SPLIT_FOR = ("gpu",)
"""Platforms on which a program of its own prepares the parameters.

On a CPU, that program takes longer to compile than it saves in a clip.
"""


@functools.partial(jax.jit, static_argnums=(0, 3))
def predict(
    config: ModelConfig,
    params: flavr.Parameters,
    windows: Array,
    outputs: tuple[int, ...] | None = None,
) -> Array:
    """Return the network's raw output for windows of any size."""
    height, width = windows.shape[2:4]
    return flavr.apply(config, params, padded(config, windows), outputs=outputs)[
        :, :, :height, :width
    ]


def padded(config: ModelConfig, windows: Array) -> Array:
    """Repeat border pixels up to the next multiple of ``config.multiple``."""
    height, width = windows.shape[2:4]
    padding = ((0, -height % config.multiple), (0, -width % config.multiple))
    return jnp.pad(windows, ((0, 0), (0, 0), *padding, (0, 0)), mode="edge")


@functools.partial(jax.jit, static_argnums=0, static_argnames=("factor", "tiling", "alpha"))
def between(
    config: ModelConfig,
    params: flavr.Parameters,
    rows: tuple[Array, ...],
    *,
    factor: int,
    tiling: Tiling,
    alpha: bool = False,
) -> tuple[Array, Array]:
    """Return the frames inside each interval, and for each interval whether all are finite.

    With ``alpha``, the frames are those of the clip's alpha as grey.
    """
    frames = jnp.stack(rows)
    frames = jnp.repeat(frames[..., 3:], 3, axis=-1) if alpha else frames[..., :3]
    count, (height, width) = frames.shape[0] - config.n_inputs + 1, frames.shape[1:3]
    most = jnp.iinfo(frames.dtype).max
    scaled = frames.astype(jnp.float32) / most
    # Windows overlap in all frames but one: they are assembled here, so that each frame is uploaded
    # and kept on the device once.
    windows = jnp.stack([scaled[t : t + count] for t in range(config.n_inputs)], axis=1)
    # A network that makes eighths also makes quarters: take every second of its frames.
    step = config.factor // factor
    outputs = tuple(range(step - 1, config.n_outputs, step))

    def finish(made: Array) -> Array:
        return jnp.rint(jnp.clip(made, 0, 1) * most).astype(frames.dtype)

    made, finite = tiles.predict(
        config, params, padded(config, windows), finish, outputs=outputs, tiling=tiling
    )
    return made[:, :, :height, :width], finite


def bucket(count: int) -> int:
    """Return the power of two that a batch is padded to, so that few sizes are compiled."""
    return 1 << (count - 1).bit_length()


class Programs:
    """The programs of :func:`between` for one network, by the frames that they are called with."""

    def __init__(
        self,
        config: ModelConfig,
        keep: bool,
        on_compile: Callable[[int, int, float | None], None],
    ) -> None:
        """Begin without any program.

        Args:
            config: the network.
            keep: keep programs between runs, as :mod:`flavr_jax.program_cache` does.
            on_compile: called before one is compiled to be kept, with the frames' width and height
                and, if known, the usual number of seconds.
        """
        self._config, self._keep, self._on_compile = config, keep, on_compile
        self._lowering = threading.Lock()
        self._halves: dict[Any, precompute.Halves] = {}
        self._programs: dict[Any, _Program] = {}

    def __call__(
        self,
        params: flavr.Parameters,
        rows: tuple[Array, ...],
        factor: int,
        tiling: Tiling,
        *,
        alpha: bool = False,
    ) -> tuple[Array, Array]:
        """Start :func:`between` for these frames; compile it if there is no program yet."""
        how = functools.partial(between, self._config, factor=factor, tiling=tiling, alpha=alpha)
        if not self._keep:
            return how(params, rows)
        (device,) = rows[0].devices()
        kind = (len(rows), rows[0].shape, rows[0].dtype, factor, tiling, alpha)
        program = self._programs.get((kind, device))
        if program is None:
            halves = precompute.unsplit(how, params)
            if device.platform in _SPLIT_FOR:
                halves = precompute.split(how, params, rows)
            halves = self._halves.setdefault(kind, halves)
            name = f"{self._config} {factor} {tiling} {alpha} {jax.tree.structure(params)}"
            program = self._compiled(halves, name, params, rows)
            program = self._programs.setdefault((kind, device), program)
        return program(params, rows)

    def _compiled(
        self,
        halves: precompute.Halves,
        name: str,
        params: flavr.Parameters,
        rows: tuple[Array, ...],
    ) -> _Program:
        """Compile both halves for the device that holds the arrays.

        Threads of several devices compile in parallel. They lower one after the other: JAX traces
        and lowers one function once for all devices.
        """
        height, width = rows[0].shape[:2]
        compiled = functools.partial(
            program_cache.compiled, sources=SOURCES, lowering=self._lowering
        )
        prepare = halves.prepare
        if halves.compiled:
            # The form that kernels need the parameters in depends on the size of the frames.
            sizes = [(row.shape, str(row.dtype)) for row in rows]
            prepare = compiled(prepare, (params,), name=f"prepare {sizes} {name}")
        prepared = precompute.joined(prepare(params), params)
        run = compiled(
            halves.run,
            (prepared, rows),
            name=f"between {name}",
            on_compile=functools.partial(self._on_compile, width, height),
        )
        return _Program(prepare, run, params, prepared)


@dataclasses.dataclass
class _Program:
    """A program on a device, with the parameters in the form that it takes."""

    prepare: Callable[[flavr.Parameters], precompute.Made]
    run: Callable[[list[Array], tuple[Array, ...]], tuple[Array, Array]]
    params: flavr.Parameters
    prepared: list[Array]

    def __call__(self, params: flavr.Parameters, rows: tuple[Array, ...]) -> tuple[Array, Array]:
        if params is not self.params:
            prepared = precompute.joined(self.prepare(params), params)
            self.params, self.prepared = params, prepared
        return self.run(self.prepared, rows)
