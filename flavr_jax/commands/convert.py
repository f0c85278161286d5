# SPDX-License-Identifier: Apache-2.0
"""Convert PyTorch weights of FLAVR into a checkpoint of flavr_jax. PyTorch is not needed.

flavr convert FLAVR_2x.pth --output checkpoints/flavr_2x
flavr convert FLAVR_2x.pth --inspect
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from flavr_jax import checkpoint, torch_weights
from flavr_jax.terminal import printable
from flavr_jax.torch_weights import report


@dataclasses.dataclass(frozen=True)
class Options:
    """Convert weights of the official FLAVR code or of mmagic, or only show them."""

    source: Annotated[Path, tyro.conf.Positional]
    """File to read: .pth, .pt, .ckpt, .safetensors, or a folder of .bin tensors from cuFLAVR."""
    output: Path | None = None
    """Checkpoint directory to write."""
    inspect: bool = False
    """Show hyper-parameters and a table of the tensors; write nothing."""
    join: Literal["concat", "add", "none"] | None = None
    """Kind of skip connections. It is recognised, except for `none`, whose tensors look like those
    of `add`: name it then."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to store; bfloat16 halves the size of the checkpoint and rounds the weights."""
    overwrite: bool = False
    """Replace an existing checkpoint."""


def main(options: Options) -> None:
    """Read and describe the source; write the checkpoint unless --inspect is given."""
    # The terminal breaks long lines itself; rich would cut names to the terminal's width.
    console = Console(width=200, highlight=False, markup=False, soft_wrap=True)
    source = torch_weights.read(options.source)
    console.print(printable(options.source), *report.source_lines(source), sep="\n  ")
    if options.inspect:
        inspect(source, options, console)
    elif options.output is None:
        raise ValueError(
            f"{options.source} has no output; name a directory with --output, or show the file's "
            "content with --inspect."
        )
    else:
        convert(source, options.output, options, console)


def inspect(source: torch_weights.TorchFile, options: Options, console: Console) -> None:
    """Print every tensor and the network that they belong to."""
    console.print(report.tensor_table(source.tensors))
    count = sum(tensor.size for tensor in source.tensors.values())
    console.print(f"{len(source.tensors)} tensors, {count:,} values")
    try:
        console.print(
            report.network_line(torch_weights.recognise(source.tensors, join=options.join))
        )
    except ValueError as error:  # --inspect also shows files that hold another network
        console.print(f"not recognised: {printable(error)}")


def convert(
    source: torch_weights.TorchFile, output: Path, options: Options, console: Console
) -> None:
    """Print the new name of each tensor and, if all of them fit, write the checkpoint."""
    conversion = torch_weights.convert(source.tensors, join=options.join)
    console.print(report.mapping_table(conversion))
    console.print(report.network_line(conversion.config))
    console.print(*report.summary_lines(conversion), sep="\n  ")
    if problems := conversion.problems():
        raise ValueError(
            f"{options.source} does not fit this network in {len(problems)} tensors, listed above; "
            "nothing was written. Give a complete checkpoint."
        )
    dtype = jnp.dtype(options.dtype)
    checkpoint.save(
        output,
        conversion.config,
        jax.tree.map(lambda values: values.astype(dtype, copy=False), conversion.params),
        provenance={
            "source": options.source.resolve().name,
            "format": source.format,
            "sha256": source.sha256,
            "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "extra": source.extra,
        },
        overwrite=options.overwrite,
    )
    console.print(f"wrote {printable(output)} ({options.dtype})")
