# SPDX-License-Identifier: Apache-2.0
"""Measure tile sizes of the GPU kernels on the GPU at hand, and keep the best."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys

import jax

from flavr_jax import cli
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import comparison, compilation, presentation
from pallas_kernels.hopper import tune
from pallas_kernels.hopper.conv import config as tile_config
from pallas_kernels.hopper.geometry import Work


@dataclasses.dataclass(frozen=True)
class Options:
    """Time several tile sizes for every convolution of a network on this GPU.

    The fastest go to pallas_kernels/tuned, where the kernels find them.
    """

    model: Preset = "flavr_2x"
    """Whose convolutions."""
    sizes: tuple[tuple[int, int], ...] = ((720, 1280), (256, 448))
    """Heights and widths in pixels, multiples of 8."""
    batch: int = 1
    """Windows a call."""
    precision: compilation.OfKernels = "bf16"
    """What the network computes in."""
    tries: int = 8
    """Tile sizes a convolution, those that the cost model likes best."""
    processes: int = 8
    """That compile side by side; one at a time uses the GPU."""
    device: str = "nvidia_h200"
    """The table's name."""
    missing: bool = False
    """Only convolutions that the table does not have."""
    dry: bool = False
    """Write nothing."""


def main(options: Options) -> None:
    """Print a line a try, and write the table."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # for all processes
    environment = presentation.environment()
    print(environment, flush=True)
    config = PRESETS[options.model]
    wanted = dict.fromkeys(work for size in options.sizes for work in works(config, options, *size))
    if options.missing:
        wanted = {
            work: None for work in wanted if work.key not in tile_config.tuned(options.device)
        }
    best = {}
    for work, found in tune.measure_all(
        list(wanted),
        options.tries,
        dtype=comparison.TYPES[options.precision],
        processes=options.processes,
    ):
        print(work.key)
        for measurement in found:
            print(
                f"  {measurement.milliseconds:.4f} ms, error {measurement.error:.1e}, "
                f"{measurement.config}",
                flush=True,
            )
        best[work.key] = found[0].config
    if not options.dry:
        tune.save(options.device, best, " ".join(["python", *sys.argv]), environment)


def works(config: ModelConfig, options: Options, height: int, width: int) -> list[Work]:
    """The convolutions of one call."""
    shape = (options.batch, config.n_inputs, height, width, 3)
    windows = jax.ShapeDtypeStruct(shape, "float32")
    apply = functools.partial(flavr.apply, config, implementation="mosaic_gpu")
    return tile_config.recorded(apply, compilation.shapes_of(config, options.precision), windows)


if __name__ == "__main__":
    cli.run(main, Options)
