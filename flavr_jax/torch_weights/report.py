# SPDX-License-Identifier: Apache-2.0
"""What a person wants to see of a checkpoint and of its conversion, as rich tables and lines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from rich.table import Table

from flavr_jax.config import ModelConfig
from flavr_jax.torch_weights.names import Conversion
from flavr_jax.torch_weights.readers import TorchFile

__all__ = ["mapping_table", "network_line", "source_lines", "summary_lines", "tensor_table"]


def source_lines(source: TorchFile) -> list[str]:
    """Format, digest, the values beside the weights, and what was left unread."""
    lines = [f"{source.format}, SHA-256 {source.sha256}"]
    lines += [f"{name}: {value}" for name, value in _flatten(source.extra).items()]
    if source.ignored:
        lines.append(f"not read, not needed: {', '.join(source.ignored)}")
    return lines


def network_line(config: ModelConfig) -> str:
    """The recognised hyper-parameters, with a warning where a file cannot tell them."""
    settings = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(config).items())
    doubt = " (a file looks the same with join none: say --join none if it is)"
    return f"FLAVR: {settings}{doubt if config.join == 'add' else ''}"


def tensor_table(tensors: Mapping[str, np.ndarray]) -> Table:
    """Name, shape, dtype and the spread of values of each tensor."""
    table = _table("tensor", "shape", "dtype", "min", "max", "mean", "std")
    for name, tensor in tensors.items():
        values = tensor.astype(np.float64)
        spread = (values.min(), values.max(), values.mean(), values.std()) if values.size else ()
        figures = [f"{figure:.4g}" for figure in spread] or ["-"] * 4
        table.add_row(name, _shape(tensor.shape), str(tensor.dtype), *figures)
    return table


def mapping_table(conversion: Conversion) -> Table:
    """Each mapped tensor's name and shape in the file and with us."""
    table = _table("tensor", "shape", "parameter", "shape")
    for entry in conversion.mapped:
        table.add_row(
            entry.source, _shape(entry.source_shape), entry.target, _shape(entry.target_shape)
        )
    return table


def summary_lines(conversion: Conversion) -> list[str]:
    """How many tensors were mapped and were not, then each one that was not."""
    count = sum(math.prod(entry.target_shape) for entry in conversion.mapped)
    return [
        f"{len(conversion.mapped)} tensors mapped ({count:,} values), "
        f"{len(conversion.unmapped)} unmapped, {len(conversion.missing)} missing, "
        f"{len(conversion.mismatched)} of wrong shape, "
        f"{len(conversion.ignored)} ignored (counters and copies, no weights)",
        *conversion.problems(),
    ]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left")
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested values under dotted names; of a text, its first line."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            lines = str(value).splitlines()
            flat[prefix + name] = f"{lines[0]} …" if len(lines) > 1 else value
    return flat
