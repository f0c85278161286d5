# SPDX-License-Identifier: Apache-2.0
"""Descriptions of a checkpoint and its conversion for the terminal, as rich tables and lines.

Names come from the file, so they are shortened and shown without control characters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
from rich.table import Table

from flavr_jax.config import ModelConfig
from flavr_jax.terminal import printable
from flavr_jax.torch_weights.names import Conversion
from flavr_jax.torch_weights.readers import TorchFile

__all__ = ["mapping_table", "network_line", "source_lines", "summary_lines", "tensor_table"]

_MAX_ROWS = 2000  # rich needs a second and some megabytes for this many
_MAX_NAME = 200
_CHUNK = 1 << 20  # values converted to float64 at a time


def source_lines(source: TorchFile) -> list[str]:
    """Describe format, digest, values stored with the weights, and names of unread entries."""
    lines = [f"{source.format}, SHA-256 {source.sha256}"]
    lines += [f"{name}: {value}" for name, value in _flatten(source.extra).items()]
    if source.ignored:
        lines.append(f"not read, not needed: {', '.join(_first(source.ignored, 20))}")
    return list(_first(lines, 100))


def network_line(config: ModelConfig) -> str:
    """Describe the recognised settings, with a warning if the file leaves ``join`` open."""
    settings = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(config).items())
    doubt = " (a file looks the same with join none: say --join none if it is)"
    return f"FLAVR: {settings}{doubt if config.join == 'add' else ''}"


def tensor_table(tensors: Mapping[str, np.ndarray]) -> Table:
    """Tabulate name, shape, dtype and statistics of each tensor."""
    table = _table("tensor", "shape", "dtype", "min", "max", "mean", "std")
    for name, tensor in itertools.islice(tensors.items(), _MAX_ROWS):
        figures = [f"{figure:.4g}" for figure in _spread(tensor)] or ["-"] * 4
        table.add_row(printable(name, _MAX_NAME), _shape(tensor.shape), str(tensor.dtype), *figures)
    _add_rest(table, len(tensors))
    return table


def mapping_table(conversion: Conversion) -> Table:
    """Tabulate name and shape of each mapped tensor, in the file and in our network."""
    table = _table("tensor", "shape", "parameter", "shape")
    for entry in conversion.mapped[:_MAX_ROWS]:
        table.add_row(
            printable(entry.source, _MAX_NAME),
            _shape(entry.source_shape),
            entry.target,
            _shape(entry.target_shape),
        )
    _add_rest(table, len(conversion.mapped))
    return table


def summary_lines(conversion: Conversion) -> list[str]:
    """Count the tensors that were mapped and that were not, then list the latter."""
    count = sum(math.prod(entry.target_shape) for entry in conversion.mapped)
    return [
        f"{len(conversion.mapped)} tensors mapped ({count:,} values), "
        f"{len(conversion.unmapped)} unmapped, {len(conversion.missing)} missing, "
        f"{len(conversion.mismatched)} of wrong shape, "
        f"{len(conversion.ignored)} ignored (counters and copies, no weights)",
        *_first(conversion.problems(), _MAX_ROWS),
    ]


def _spread(tensor: np.ndarray) -> tuple[float, ...]:
    """Minimum, maximum, mean and standard deviation; empty for an empty tensor."""
    if not tensor.size:
        return ()
    flat = tensor.reshape(-1)
    chunks = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
    with np.errstate(all="ignore"):  # weights may be inf or nan, and are shown as such
        mean = sum(float(chunk.astype(np.float64).sum()) for chunk in chunks) / flat.size
        squares = (float(np.square(chunk.astype(np.float64) - mean).sum()) for chunk in chunks)
        std = math.sqrt(sum(squares) / flat.size)
        lowest = np.min([chunk.astype(np.float64).min() for chunk in chunks])
        highest = np.max([chunk.astype(np.float64).max() for chunk in chunks])
    return float(lowest), float(highest), mean, std


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left")
    return table


def _add_rest(table: Table, count: int) -> None:
    if count > _MAX_ROWS:
        table.add_row(f"… and {count - _MAX_ROWS} more")


def _first(texts: Iterable[str], count: int) -> Iterable[str]:
    """Yield the first ``count`` texts, made printable, and the number of the others."""
    everything = list(texts)
    yield from (printable(text, 4 * _MAX_NAME) for text in everything[:count])
    if len(everything) > count:
        yield f"… and {len(everything) - count} more"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested values to dotted names; keep the first line of longer texts."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            lines = str(value).splitlines()
            flat[prefix + name] = f"{lines[0]} …" if len(lines) > 1 else value
    return flat
