# SPDX-License-Identifier: Apache-2.0
"""Compile the Hopper kernels on a machine without a GPU, and report what would make them slow."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pallas_kernels
from flavr_jax.models.presets import PRESETS, Preset
from flavr_jax.profiling import compilation

TARGETS = Path(pallas_kernels.__file__).parent / "targets"


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile every kernel of a network for a GPU that this machine need not have.

    The exit code is 1 if registers are spilled or products of the tensor cores are serialised.
    """

    model: Preset = "flavr_2x"
    """Network whose kernels are compiled: an official one by its factor, or the bundled one."""
    size: tuple[int, int] = (720, 1280)
    """Height and width in pixels: multiples of 8, and of 16 for the default network."""
    batch: int = 1
    """Windows per call."""
    precision: compilation.OfKernels = "bf16"
    """Number format that the network computes in."""
    target: str = "nvidia_h200"
    """GPU to compile for: the name of a file in pallas_kernels/targets, without its suffix."""
    keep: Path | None = None
    """Keep the PTX, the SASS and the assembler's notes in this folder."""


def main(options: Options) -> int:
    """Print a line for each kernel, and return 1 if one of them would be slow."""
    target = TARGETS / f"{options.target}.txtpb"
    if not target.exists():
        known = ", ".join(sorted(path.stem for path in TARGETS.glob("*.txtpb")))
        raise ValueError(f"`target` is {options.target!r}; use one of {known}.")
    with tempfile.TemporaryDirectory() as folder:
        dump = options.keep or Path(folder)
        compilation.prepare(dump)
        kernels = compilation.compile_kernels(
            PRESETS[options.model],
            options.batch,
            *options.size,
            options.precision,
            target.read_text(),
            dump,
        )
    for kernel in kernels:
        print(
            f"{kernel.registers} registers, {kernel.spilled} bytes spilled, products serialised "
            f"{kernel.serialised} times, {kernel.shared_memory} bytes shared: {kernel.name}"
        )
    troubled = [kernel for kernel in kernels if kernel.spilled or kernel.serialised]
    print(f"{len(kernels)} kernels, {len(troubled)} with spills or serialised products")
    return 1 if troubled else 0
