# SPDX-License-Identifier: Apache-2.0
"""Compact states: about 5.1 bytes per parameter instead of 16, to move a run to another machine.

Values are quantised in blocks of 256, in a form chosen by how sensitive the next update is:

* parameters: 16 bits, in steps of 1/32767 of the block's largest magnitude;
* average of the parameters: 8 bits for the difference from the parameters;
* second moment: 8 bits for its logarithm. The update divides by its root, so the relative error
  matters, and no value may become 0;
* first moment: 8 bits for its ratio to that root. This ratio is the update itself. Quantising the
  moment directly would round small values next to large ones to 0;
* Muon's single moment of a kernel: 8 bits.

A run resumed from a compact state differs from the uninterrupted one by about as much as the noise
of a few steps. States in the output folder are exact.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from flavr_jax.partial import Partial
from flavr_jax.training.checkpoints import from_arrays, to_arrays
from flavr_jax.training.state import TrainState

__all__ = ["export", "load"]

_BLOCK = 256
_PART_BYTES = 15 << 20  # many transfer tools have a limit on file size
_TINY = 1e-30  # smaller second moments count as 0


class _Linear(NamedTuple):
    """Integers, and a scale for each block."""

    codes: Shaped[np.ndarray, "blocks 256"]
    scale: Float[np.ndarray, "blocks 1"]


class _Logarithmic(NamedTuple):
    """Bytes that map 0 to 255 onto the block's logarithms ``low`` to ``low + span``."""

    codes: Shaped[np.ndarray, "blocks 256"]
    low: Float[np.ndarray, "blocks 1"]
    span: Float[np.ndarray, "blocks 1"]


def export(folder: Path, state: TrainState, host: dict[str, Any]) -> int:
    """Write a state into a folder, in files of at most 15 MiB, and return its size in bytes.

    The folder gets its name only when it is complete, and then replaces an older export.
    """
    arrays = to_arrays(state)
    names = _tensors(arrays)
    values = {part: _flat(arrays, of) for part, of in names.items()}
    # The same limit as in the stored logarithms.
    root = np.sqrt(np.maximum(values["second"], _TINY))
    # Ratios and differences refer to the values as the reader will restore them.
    second = _to_logarithmic(values["second"])
    restored_root = np.sqrt(_from_logarithmic(second)[: root.size])
    params = _to_linear(values["params"], np.int16)
    restored = _from_linear(params)[: values["params"].size]
    packed = {
        "params": params,
        "average": _to_linear(values["average"] - restored, np.int8),
        "first": _to_linear(values["first"] / restored_root, np.int8),
        "second": second,
        "only": _to_linear(values["only"], np.int8),
    }
    stored = {
        f"{part}.{field}": array
        for part, fields in packed.items()
        for field, array in fields._asdict().items()
    }
    covered = {name for of in names.values() for name in of}
    stored |= {f"other/{name}": leaf for name, leaf in arrays.items() if name not in covered}
    return _write(folder, stored, host)


def load(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Read a state that ``export`` wrote, and the JSON values stored with it.

    Raises:
        FileNotFoundError: the folder holds no such state.
        ValueError: parts are missing, or the shapes are not those of ``like``.
    """
    stored, host = _read(folder)
    shapes = to_arrays(like)
    names = _tensors(shapes)
    count = sum(shapes[name].size for name in names["params"])
    if stored["params.codes"].size != -(-count // _BLOCK) * _BLOCK:
        raise ValueError(
            f"{folder} is the state of another network: this one has {count} parameters; "
            "resume with the recipe it was started with."
        )

    def part(kind: type, name: str) -> Any:
        return kind(*(stored[f"{name}.{field}"] for field in kind._fields))

    params = _from_linear(part(_Linear, "params"))
    second = _from_logarithmic(part(_Logarithmic, "second"))
    values = {
        "params": params,
        "average": params + _from_linear(part(_Linear, "average")),
        # A logarithm cannot represent 0, so values clamped to _TINY are restored as 0.
        # The factor leaves room for the rounding of logarithms to 8 bits.
        "second": np.where(second > 4 * _TINY, second, 0.0),
        "first": _from_linear(part(_Linear, "first")) * np.sqrt(second),
        "only": _from_linear(part(_Linear, "only")),
    }
    arrays = {
        name.removeprefix("other/"): leaf
        for name, leaf in stored.items()
        if name.startswith("other/")
    }
    for section, of in names.items():
        start = 0
        for name in of:
            size = shapes[name].size
            piece = values[section][start : start + size].astype(np.float32)
            arrays[name] = piece.reshape(shapes[name].shape)
            start += size
    return from_arrays(arrays, like, where=str(folder)), host


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Return the names of parameters, averages and moments, each list in the same order.

    Adam has two moments of a parameter, ``first`` and ``second``; Muon has one moment of a kernel,
    ``only``.
    """
    params = [name for name in arrays if name.startswith("params/")]
    found = {"params": params, "average": [], "first": [], "second": [], "only": []}
    for name in params:
        path = name.removeprefix("params/")
        found["average"].append(f"average/{path}")
        # optax names Adam's moments mu and nu; Muon's single one is mu, too.
        first, second = (
            [other for other in arrays if other.endswith(f"/{moment}/{path}")]
            for moment in ("mu", "nu")
        )
        found["first" if second else "only"] += first
        found["second"] += second
    return found


def _flat(arrays: dict[str, np.ndarray], names: list[str]) -> Float[np.ndarray, " values"]:
    """Concatenate tensors into one vector."""
    return np.concatenate([np.empty(0, np.float32), *(arrays[name].ravel() for name in names)])


def _blocks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, "blocks 256"]:
    """Split into rows of 256, repeating the last value to fill the last row."""
    # Zeros would stretch the range of logarithms of the last block.
    return np.pad(values, (0, -values.size % _BLOCK), mode="edge").reshape(
        -(-values.size // _BLOCK), _BLOCK
    )


def _to_linear(values: Float[np.ndarray, " values"], kind: type[np.signedinteger]) -> _Linear:
    """Quantise linearly to signed integers of this type."""
    blocks = _blocks(values)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scale = (largest / np.iinfo(kind).max).astype(np.float32)
    codes = np.rint(blocks / np.where(scale > 0, scale, 1.0)).astype(kind)
    return _Linear(codes, scale)


def _from_linear(packed: _Linear) -> Float[np.ndarray, " values"]:
    return (packed.codes.astype(np.float32) * packed.scale).ravel()


def _to_logarithmic(values: Float[np.ndarray, " values"]) -> _Logarithmic:
    """Quantise the logarithm to 8 bits."""
    blocks = np.log2(np.maximum(_blocks(values), _TINY))
    low = blocks.min(axis=1, keepdims=True)
    span = blocks.max(axis=1, keepdims=True) - low
    share = (blocks - low) / np.where(span > 0, span, 1.0)
    return _Logarithmic(np.rint(255 * share).astype(np.uint8), low, span)


def _from_logarithmic(packed: _Logarithmic) -> Float[np.ndarray, " values"]:
    return np.exp2(packed.codes.astype(np.float32) / 255 * packed.span + packed.low).ravel()


def _write(folder: Path, stored: dict[str, np.ndarray], host: dict[str, Any]) -> int:
    """Write the arrays' bytes in parts, and an index of names, dtypes and shapes."""
    listing, data = {}, bytearray()
    for name, array in stored.items():
        listing[name] = {"dtype": str(array.dtype), "shape": array.shape}
        data += np.ascontiguousarray(array).tobytes()
    index = {"bytes": len(data), "arrays": listing, "host": host}
    with Partial(folder, overwrite=True, folder=True, ours=_is_ours) as partial:
        for number, start in enumerate(range(0, len(data), _PART_BYTES)):
            part = partial.path / f"part-{number:03d}.bin"
            part.write_bytes(data[start : start + _PART_BYTES])
        (partial.path / "index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.iterdir())


def _is_ours(entry: Path) -> bool:
    """Return whether an older export wrote this file, so that the new one may replace it."""
    is_export = all((entry.parent / name).is_file() for name in ("index.json", "part-000.bin"))
    return is_export and re.fullmatch(r"index\.json|part-\d+\.bin", entry.name) is not None


def _read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and JSON values that ``_write`` wrote."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name a folder that --export-state wrote.")
    index = json.loads(path.read_text())
    data = b"".join(part.read_bytes() for part in sorted(folder.glob("part-*.bin")))
    if len(data) != index["bytes"]:
        raise ValueError(
            f"{folder} has {len(data)} of {index['bytes']} bytes; copy all of its files again."
        )
    arrays, start = {}, 0
    for name, entry in index["arrays"].items():
        kind, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, kind, count, start).reshape(shape)
        start += count * kind.itemsize
    return arrays, index["host"]
