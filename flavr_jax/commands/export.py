# SPDX-License-Identifier: Apache-2.0
"""Export a network as one file: ``flavr export CHECKPOINT --output net.stablehlo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flavr_jax import checkpoint, export
from flavr_jax.bundled import DEFAULT_CHECKPOINT
from flavr_jax.partial import Partial


@dataclass(frozen=True)
class Options:
    """Export a network with its weights as one file that runs without flavr_jax.

    The file is run before it gets its name, and compared with the network.
    """

    output: Path
    """File to write."""
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[CHECKPOINT]")] = (
        DEFAULT_CHECKPOINT
    )
    """Checkpoint directory; by default the bundled one."""
    size: tuple[int, int] = (256, 448)
    """Height and width of the frames in pixels: multiples of 8, and of 16 for the default network.
    The file works for this size only."""
    batch: int = 1
    """Windows per call."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """Format of the file. stablehlo: a program that jax.export.deserialize reads. onnx: a model for
    onnxruntime and others, with the input windows and the output frames."""
    tolerance: float = 1e-3
    """Largest difference from the network's own outputs on random frames in [0, 1]; a larger one is
    an error. The default is a quarter of a step of 8 bits."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""


def main(options: Options) -> None:
    """Write the file and print how far its outputs are from the network's."""
    if options.batch < 1:
        raise ValueError(f"`batch` is {options.batch}; it is at least 1.")
    if options.output.exists() and not options.overwrite:
        raise FileExistsError(f"{options.output} exists; choose another or pass --overwrite.")
    stored = checkpoint.load(options.checkpoint)
    shape = (options.batch, *options.size)
    make, runner = {
        "stablehlo": (export.stablehlo, export.run),
        "onnx": (export.onnx, export.run_onnx),
    }[options.format]
    program = make(stored.config, stored.params, shape)
    with Partial(options.output, overwrite=options.overwrite) as partial:
        partial.path.write_bytes(program)
        difference = export.largest_difference(
            partial.path.read_bytes(), stored.config, stored.params, shape, runner
        )
        if not difference <= options.tolerance:
            raise ValueError(
                f"the exported network differs by {difference:.1e} from the original, more than "
                f"`tolerance` {options.tolerance:.1e}; allow more, or report this."
            )
    inputs = (options.batch, stored.config.n_inputs, *options.size, 3)
    outputs = (options.batch, stored.config.n_outputs, *options.size, 3)
    print(
        f"{options.output}: {len(program) / 1e6:.1f} MB, float32 {list(inputs)} → {list(outputs)}; "
        f"largest difference {difference:.1e} on this device"
    )
