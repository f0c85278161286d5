# SPDX-License-Identifier: Apache-2.0
"""PyTorch's two pickle-based formats: a zip archive, and before 1.6 pickles with bytes behind.

Only the weights' bytes are read, each tensor just as far as it reaches into its storage: the
optimizer's two thirds of an official checkpoint stay on the disk.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np

from flavr_jax.torch_weights import unpickler
from flavr_jax.torch_weights.unpickler import Storage, Tensor

__all__ = ["PickledWeights", "read_legacy", "read_zip"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")
_NOT_PLAIN = object()

_Fetch: TypeAlias = Callable[[Storage, int, int], bytes]
"""Reads so many numbers of a storage, from number so many."""


@dataclasses.dataclass(frozen=True)
class PickledWeights:
    """A checkpoint's weights, its plain values, and the names of what was left unread."""

    tensors: dict[str, np.ndarray]
    extra: dict[str, Any]
    ignored: tuple[str, ...]


def read_zip(path: Path) -> PickledWeights:
    """The weights of a checkpoint in the format of PyTorch ≥ 1.6, a zip archive.

    Raises:
        UnsafePickleError: naming what the file asked for; nothing of it was run.
        ValueError: if the archive is not PyTorch's, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next((name[:-8] for name in names if Path(name).name == "data.pkl"), None)
            if root is None:
                raise ValueError(
                    f"{path} is a zip archive without a `data.pkl`, so PyTorch did not write it; "
                    "give a file that `torch.save` wrote."
                )
            if f"{root}byteorder" in names:
                with _open_record(archive, f"{root}byteorder") as file:
                    _require_little_endian(file.read() == b"little", path)
            with _open_record(archive, f"{root}data.pkl") as file:
                tree = unpickler.load(file, path)

            def fetch(storage: Storage, start: int, count: int) -> bytes:
                with _open_record(archive, f"{root}data/{storage.key}") as file:
                    return _read_run(file, storage, start, count)

            return _collect(tree, fetch, path)
    except (zipfile.BadZipFile, struct.error, EOFError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or download it again.") from error


def read_legacy(path: Path) -> PickledWeights:
    """The weights of a checkpoint in the format of PyTorch ≤ 1.5: pickles, then raw storages.

    Raises:
        UnsafePickleError: naming what the file asked for; nothing of it was run.
        ValueError: if the file is another kind of pickle, or is damaged.
    """
    with path.open("rb") as file:
        if unpickler.load(file, path) != _LEGACY_MAGIC:
            raise ValueError(
                f"{path} is a pickle, but none of PyTorch's; give a file that `torch.save` wrote."
            )
        _version, system = (unpickler.load(file, path) for _ in range(2))
        _require_little_endian(isinstance(system, dict) and system.get("little_endian"), path)
        storages: dict[str, Storage] = {}
        tree = unpickler.load(file, path, storages)
        keys, starts = unpickler.load(file, path), dict[str, int]()
        for key in keys if isinstance(keys, list) else ():
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None or file.read(8) != struct.pack("<q", storage.length):
                raise ValueError(f"{path} is damaged: storage {key!r} is not where it should be.")
            starts[storage.key] = file.tell()
            file.seek(storage.length * _dtype(storage).itemsize, 1)

        def fetch(storage: Storage, start: int, count: int) -> bytes:
            if storage.key not in starts:
                raise ValueError(f"{path} is damaged: storage {storage.key!r} is missing.")
            file.seek(starts[storage.key])
            return _read_run(file, storage, start, count)

        return _collect(tree, fetch, path)


def _require_little_endian(little_endian: Any, path: Path) -> None:
    if not little_endian:
        raise ValueError(
            f"{path} was written by a big-endian machine; load it with PyTorch and save it again "
            "on a little-endian one."
        )


def _open_record(archive: zipfile.ZipFile, name: str) -> io.BufferedIOBase:
    record = archive.getinfo(name)
    # torch.save does neither, and what is merely stored cannot swell in memory.
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise zipfile.BadZipFile(f"{name} is compressed or encrypted")
    return cast(io.BufferedIOBase, archive.open(record))


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)


def _read_run(file: io.BufferedIOBase, storage: Storage, start: int, count: int) -> bytes:
    """``count`` numbers of a storage from number ``start``; the file stands at the storage."""
    itemsize = _dtype(storage).itemsize
    file.seek(start * itemsize, 1)
    return file.read(count * itemsize)


def _collect(tree: Any, fetch: _Fetch, path: Path) -> PickledWeights:
    """Find the state dict in what the pickle built, and read its tensors."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} holds a {type(tree).__name__}; a checkpoint holds a dictionary.")
    nested = [key for key in _WEIGHT_KEYS if isinstance(tree.get(key), Mapping)]
    weights = tree[nested[0]] if nested else tree
    records = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if not records:
        raise ValueError(
            f"{path} has no tensors under `state_dict` or at its top level; its keys are "
            f"{', '.join(map(str, tree)) or 'none'}."
        )
    tensors = {str(name): _materialise(record, fetch, path) for name, record in records.items()}
    others = {**tree, **weights} if nested else dict(tree)
    others = {
        str(key): _plain(value, fetch, path)
        for key, value in others.items()
        if value is not weights and key not in records
    }
    return PickledWeights(
        tensors=tensors,
        extra={key: value for key, value in others.items() if value is not _NOT_PLAIN},
        ignored=tuple(key for key, value in others.items() if value is _NOT_PLAIN),
    )


def _materialise(tensor: Tensor, fetch: _Fetch, path: Path) -> np.ndarray:
    """The tensor's numbers in C order, reading no more of its storage than they span."""
    storage, offset, size, stride = tensor
    dtype, elements = _dtype(storage), math.prod(size)
    span = 1 + sum((n - 1) * step for n, step in zip(size, stride)) if elements else 0
    # More elements than the storage has could only be repeats: a few bytes would fill the memory.
    if offset + span > storage.length or elements > storage.length:
        raise ValueError(
            f"{path} is damaged: a tensor of shape {size} reaches beyond its storage of "
            f"{storage.length} elements."
        )
    data = fetch(storage, offset, span)
    if len(data) != span * dtype.itemsize:
        raise ValueError(f"{path} is truncated: {storage.key!r} ends early. Download it again.")
    flat = np.frombuffer(data, dtype)
    strides = tuple(step * dtype.itemsize for step in stride)
    return np.asarray(np.lib.stride_tricks.as_strided(flat, size, strides), order="C")


def _plain(value: Any, fetch: _Fetch, path: Path, levels: int = 3) -> Any:
    """A number, string or dictionary of them; ``_NOT_PLAIN`` for anything else or deeper."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) and value.size == ():
        return _materialise(value, fetch, path).item()
    if isinstance(value, Mapping) and levels:
        entries = {
            key: _plain(entry, fetch, path, levels - 1)
            for key, entry in value.items()
            if isinstance(key, str)
        }
        return {k: v for k, v in entries.items() if v is not _NOT_PLAIN} or _NOT_PLAIN
    return _NOT_PLAIN
