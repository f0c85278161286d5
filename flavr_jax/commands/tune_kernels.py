# SPDX-License-Identifier: Apache-2.0
"""Measure tile sizes of the GPU kernels on this machine's GPU, and keep the fastest."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import sys

import jax

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import comparison, compilation, presentation
from pallas_kernels.core import device
from pallas_kernels.hopper import tune
from pallas_kernels.hopper.conv import config as tile_config
from pallas_kernels.hopper.geometry import ConvShape


@dataclasses.dataclass(frozen=True)
class Options:
    """Time several tile sizes for every convolution of a network on this GPU.

    The fastest are written to pallas_kernels/tuned/DEVICE.json, which the kernels read.
    """

    model: Preset = "flavr_2x"
    """Network whose convolutions are measured."""
    width: int | None = None
    """Width of the network, if it is not to be that of --model."""
    sizes: tuple[tuple[int, int], ...] = ((720, 1280), (256, 448))
    """Heights and widths in pixels: multiples of 8, and of 16 for the default network."""
    batch: int = 1
    """Windows per call."""
    precision: compilation.OfKernels = "bf16"
    """Number format that the network computes in."""
    training: bool = False
    """Measure the convolutions of a training step: those of the network and of its gradient."""
    tries: int = 8
    """Number of tile sizes to measure per convolution: those of the lowest estimated cost."""
    processes: int = 8
    """Number of processes that compile in parallel; only one at a time uses the GPU."""
    missing: bool = False
    """Measure only convolutions that are not in the table yet."""
    dry: bool = False
    """Only measure and print; do not write the table."""


def main(options: Options) -> None:
    """Print a line for each tile size, and write the table of this machine's GPU."""
    if options.training and options.precision == "fp8":
        raise ValueError("fp8 has no gradient; leave --training out, or use --precision bf16.")
    reason = device.why_not()
    if reason is not None:
        raise ValueError(
            f"the GPU kernels cannot run here: {reason}. Run this on a machine that has one."
        )
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # for all processes
    environment = presentation.environment()
    print(environment, flush=True)
    config = PRESETS[options.model]
    if options.width is not None:
        config = dataclasses.replace(config, width=options.width)
    table = device.table_name()
    wanted = dict.fromkeys(conv for size in options.sizes for conv in convs(config, options, *size))
    if options.missing:
        wanted = {conv: None for conv in wanted if conv.key not in tile_config.tuned(table)}
    best = {}
    for conv, found in tune.measure_all(
        list(wanted),
        options.tries,
        dtype=comparison.TYPES[options.precision],
        processes=options.processes,
    ):
        print(conv.key)
        for measurement in found:
            print(
                f"  {measurement.milliseconds:.4f} ms, error {measurement.error:.1e}, "
                f"{measurement.config}",
                flush=True,
            )
        best[conv.key] = found[0].config
    if not options.dry:
        command = shlex.join(["flavr", "tune-kernels", *sys.argv[1:]])
        tune.save(table, best, command, environment)


def convs(config: ModelConfig, options: Options, height: int, width: int) -> list[ConvShape]:
    """Return the convolutions of one call of the network or of its gradient, by tracing it."""
    shape = (options.batch, config.n_inputs, height, width, 3)
    windows = jax.ShapeDtypeStruct(shape, "float32")
    apply = functools.partial(flavr.apply, config, implementation="mosaic_gpu")

    def total(params: flavr.Parameters, windows: jax.Array) -> jax.Array:
        return apply(params, windows).sum()

    function = jax.grad(total) if options.training else apply
    return tile_config.record_convs(
        function, compilation.shapes_of(config, options.precision), windows
    )
