# SPDX-License-Identifier: Apache-2.0
"""Time the network: as a whole, layer by layer, and beside PyTorch on the same device."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Literal

import jax

from flavr_jax import cli
from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import comparison, presentation
from flavr_jax.profiling.comparison import OnePrecision, TorchMode


@dataclasses.dataclass(frozen=True)
class Options:
    """Time one call of the network with random weights, from float32 frames to float32 frames."""

    model: Preset = "flavr_2x"
    """Which network: the official ones by factor, or the bundled one's."""
    size: tuple[int, int] = (256, 448)
    """Height and width in pixels, multiples of 8."""
    batch: int = 1
    """Windows a call."""
    precision: tuple[OnePrecision, ...] = ("fp32",)
    """What the network computes in."""
    implementations: tuple[Literal["mosaic_gpu", "xla", "reference"], ...] = ("xla",)
    """mosaic_gpu: kernels for Hopper GPUs; reference: plain lax, 3-D and input-dilated."""
    torch: tuple[TorchMode, ...] = ()
    """PyTorch beside it, where installed: float32 is PyTorch as shipped."""
    torch_device: Literal["cuda", "cpu"] = "cuda"
    """Where PyTorch runs; on a CPU with as many threads as it takes by itself."""
    repeats: int = 50
    """Timed calls after a warm-up; the median counts."""
    check: bool = True
    """Compare every output with the float32 definition's; --no-check saves its time and memory."""
    profile: Path | None = None
    """Trace the first implementation and precision into this folder (for XProf), and print tables
    of its kernels and of its layers, beside PyTorch's stages where --torch names a mode."""
    json: Path | None = None
    """Append the figures there, a line a row."""
    plot: Path | None = None
    """Draw the rows as bars into this PNG or SVG file; needs matplotlib."""


def main(options: Options) -> None:
    """Print the device, then a line a row, then the tables asked for."""
    config = PRESETS[options.model]
    height, width = options.size
    print(presentation.environment(with_torch=bool(options.torch)))
    case = comparison.NetworkCase(config, options.batch, height, width, check=options.check)
    rows = []
    settings = {"model": options.model, "size": options.size, "batch": options.batch}

    def keep(row: comparison.Row) -> None:
        rows.append(row)
        print(presentation.line(row), flush=True)
        if options.json is not None:
            with options.json.open("a") as file:
                file.write(json.dumps({**settings, **presentation.figures(row)}) + "\n")

    variants = itertools.product(options.implementations, options.precision)
    for program in comparison.compile_jax(case, variants):
        keep(comparison.run_jax(case, program, options.repeats))
    for mode in options.torch:
        keep(comparison.run_torch(case, mode, options.repeats, options.torch_device))
    if options.profile is not None:
        stages = {}
        if options.torch and options.torch_device == "cuda":
            stages = comparison.torch_stages(case, options.torch[0], 20)
        first = options.implementations[0], options.precision[0]
        print(presentation.layers(case, *first, options.profile, stages))
    if options.plot is not None:
        title = f"{options.model}, {height}×{width}, batch {options.batch}"
        presentation.plot(rows, options.plot, f"{title}, {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    cli.run(main, Options)
