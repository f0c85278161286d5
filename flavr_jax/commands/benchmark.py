# SPDX-License-Identifier: Apache-2.0
"""Time the network as a whole and layer by layer, and compare it with PyTorch on one device."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import comparison, look_ups, presentation, timing
from flavr_jax.profiling.comparison import OnePrecision, TorchMode
from pallas_kernels.core import device


@dataclasses.dataclass(frozen=True)
class Options:
    """Time calls of the network with random weights, from float32 frames to float32 frames."""

    model: Preset = "flavr_2x"
    """Network to time: an official one by its factor, or the bundled one."""
    size: tuple[int, int] = (256, 448)
    """Height and width in pixels: multiples of 8, and of 16 for the default network."""
    batch: int = 1
    """Windows per call."""
    precision: tuple[OnePrecision, ...] = ("fp32",)
    """Precisions to compute in."""
    implementations: tuple[Literal["mosaic_gpu", "xla", "reference"], ...] = ("xla",)
    """Implementations to time. mosaic_gpu: kernels for Hopper GPUs; xla: any device; reference: the
    definition, in plain lax."""
    torch: tuple[TorchMode, ...] = ()
    """Settings of PyTorch to compare with; needs PyTorch. float32 is PyTorch's default, which uses
    TF32 in convolutions."""
    torch_device: Literal["cuda", "cpu"] = "cuda"
    """Device that PyTorch runs on; on a CPU it uses its default number of threads."""
    repeats: int = 50
    """Calls to time, after a warm-up; the median is reported."""
    check: bool = True
    """Compare outputs with float32 ones; --no-check saves time and memory."""
    look_ups: bool = False
    """Time the look-up of pixels for 7 frames alone, in float32, instead of the network."""
    profile: Path | None = None
    """Write a trace of the first implementation and precision into this folder, for XProf. Also
    print tables of kernels and layers and, with --torch, of stages beside PyTorch's, and a row for
    the time of all layers at the speeds of a large matrix product and a copy."""
    json: Path | None = None
    """Append the measurements to this file, one line per row."""
    plot: Path | None = None
    """Draw the times as a bar chart into this PNG or SVG file; needs matplotlib. With --json, the
    rows of earlier runs with the same settings are drawn, too."""


def main(options: Options) -> None:
    """Print the device, a line for each row as soon as it is timed, then the tables."""
    if "mosaic_gpu" in options.implementations:
        reason = device.why_not(wgmma=not options.look_ups)
        if reason is not None:
            raise ValueError(
                f"mosaic_gpu cannot run here: {reason}. Leave it out: --implementations xla."
            )
    print(presentation.environment(with_torch=bool(options.torch)))
    if options.look_ups:
        _print_look_ups(options)
        return
    config = PRESETS[options.model]
    height, width = options.size
    case = comparison.NetworkCase(config, options.batch, height, width, check=options.check)
    rows = []
    settings = {"model": options.model, "size": [height, width], "batch": options.batch}

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
        ceilings = timing.measure_ceilings(jnp.dtype(comparison.TYPES[first[1]]))
        keep(presentation.roofline(case, first[1], ceilings))
        print(presentation.layers(case, *first, options.profile, stages, ceilings))
    if options.plot is not None:
        drawn = rows if options.json is None else presentation.read(options.json, settings)
        devices = dict.fromkeys(row.device or jax.devices()[0].device_kind for row in drawn)
        title = f"{options.model}, {height}×{width}, batch {options.batch}"
        presentation.plot(drawn, options.plot, ", ".join([title, *devices]))


def _print_look_ups(options: Options) -> None:
    """Print a line for each implementation's look-up and its step, and one for the roofline."""
    ceilings = timing.measure_ceilings(jnp.float32)
    print(presentation.line(look_ups.roofline(options.batch, options.size, ceilings)))
    rows = look_ups.compare(options.implementations, options.batch, options.size, options.repeats)
    for row in rows:
        print(presentation.line(row), flush=True)
