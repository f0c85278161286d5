# SPDX-License-Identifier: Apache-2.0
"""PyTorch's two pickle-based formats: a zip archive, and before 1.6 pickles followed by raw bytes.

The file is mapped into memory and each tensor is copied out of it, so that the optimizer's state,
two thirds of an official checkpoint, is never read. A hostile file may describe far more data than
it holds. So every storage is compared with the bytes present, and the total of all tensors with the
size of the file.
"""

from __future__ import annotations

import dataclasses
import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from flavr_jax.torch_weights import unpickler
from flavr_jax.torch_weights.stand_ins import Placeholder, Storage, Tensor

__all__ = ["PickledWeights", "read_legacy", "read_zip"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")
_NOT_PLAIN = object()
# Tensors may be views of the same storage, but a few bytes must not become many large tensors.
_MAX_COPIES = 2
_MAX_PLAIN = 1 << 18  # most plain values and characters in them, which go into the provenance
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of extra fields

_Fetch: TypeAlias = Callable[[Storage], memoryview]
"""Looks up the bytes of a storage in the mapped file."""


@dataclasses.dataclass(frozen=True)
class PickledWeights:
    """A checkpoint's weights, its plain values, and the names of entries that were not read."""

    tensors: dict[str, np.ndarray]
    extra: dict[str, Any]
    ignored: tuple[str, ...]


def read_zip(path: Path) -> PickledWeights:
    """Read the weights of a checkpoint in the format of PyTorch ≥ 1.6, a zip archive.

    Raises:
        UnsafePickleError: the pickle uses a forbidden name, which the message tells; nothing was
            run.
        ValueError: PyTorch did not write the archive, or it is damaged.
    """
    try:
        with _open_archive(path) as archive, path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            names = set(archive.namelist())
            root = next((name[:-8] for name in names if Path(name).name == "data.pkl"), None)
            if root is None:
                raise ValueError(
                    f"{path} is a zip archive without a `data.pkl`, so PyTorch did not write it; "
                    "give a file that `torch.save` wrote."
                )
            records = _Records(archive, mapped)
            if f"{root}byteorder" in names:
                _require_little_endian(records.read(f"{root}byteorder") == b"little", path)
            pickled = io.BytesIO(records.read(f"{root}data.pkl"))
            tree = unpickler.load(pickled, path)
            return _collect(
                tree, lambda storage: records.read(f"{root}data/{storage.key}"), len(mapped), path
            )
    except (zipfile.BadZipFile, struct.error, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or download it again.") from error


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged directory raises one of a dozen exceptions, also OSError
        raise zipfile.BadZipFile(f"its directory cannot be read ({error})") from error


class _Records:
    """The records of a zip archive; each is checked when it is first read."""

    def __init__(self, archive: zipfile.ZipFile, mapped: memoryview) -> None:
        self.archive, self.mapped = archive, mapped
        self.checked: dict[str, memoryview] = {}
        self.total = 0

    def read(self, name: str) -> memoryview:
        """The bytes of a record."""
        if name not in self.checked:
            self.checked[name] = self._check(self.archive.getinfo(name))
        return self.checked[name]

    def _check(self, record: zipfile.ZipInfo) -> memoryview:
        # torch.save neither compresses nor encrypts, and uncompressed data cannot expand in memory.
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise zipfile.BadZipFile(f"{record.filename} is compressed or encrypted")
        signature, *lengths = _LOCAL_HEADER.unpack_from(self.mapped, record.header_offset)
        start = record.header_offset + _LOCAL_HEADER.size + sum(lengths)
        data = self.mapped[start : start + record.file_size]
        self.total += record.file_size
        # Records must not overlap: the same bytes would be checked and copied once for each name.
        overlap = self.total > len(self.mapped)
        if signature != b"PK\x03\x04" or len(data) != record.file_size or overlap:
            raise zipfile.BadZipFile(f"{record.filename} is not where it should be")
        if zlib.crc32(data) != record.CRC:
            raise zipfile.BadZipFile(f"the checksum of {record.filename} is wrong")
        return data


def read_legacy(path: Path) -> PickledWeights:
    """Read the weights of a checkpoint in the format of PyTorch ≤ 1.5: pickles, then storages.

    Raises:
        UnsafePickleError: the pickle uses a forbidden name, which the message tells; nothing was
            run.
        ValueError: the file is another kind of pickle, or is damaged.
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
        keys, data = unpickler.load(file, path), dict[str, memoryview]()
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        position = file.tell()
        for key in keys if isinstance(keys, list) else ():
            storage = storages.get(key) if isinstance(key, str) else None
            length = int.from_bytes(mapped[position : position + 8], "little")
            if storage is None or length != storage.length:
                raise ValueError(f"{path} is damaged: a storage is not where it should be.")
            end = position + 8 + length * _dtype(storage).itemsize
            if end > len(mapped):
                raise ValueError(f"{path} is truncated: storage {key!r} ends early.")
            data[storage.key] = mapped[position + 8 : end]
            position = end

        def fetch(storage: Storage) -> memoryview:
            if storage.key not in data:
                raise ValueError(f"{path} is damaged: storage {storage.key!r} is missing.")
            return data[storage.key]

        return _collect(tree, fetch, len(mapped), path)


def _require_little_endian(little_endian: Any, path: Path) -> None:
    if not little_endian:
        raise ValueError(
            f"{path} was written by a big-endian machine; load it with PyTorch and save it again "
            "on a little-endian one."
        )


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)


def _collect(tree: Any, fetch: _Fetch, file_size: int, path: Path) -> PickledWeights:
    """Find the state dict in the unpickled value, and read its tensors."""
    if not isinstance(tree, Mapping):
        kind = "set or log" if isinstance(tree, Placeholder) else type(tree).__name__
        raise ValueError(f"{path} holds a {kind}; a checkpoint holds a dictionary.")
    nested = [key for key in _WEIGHT_KEYS if isinstance(tree.get(key), Mapping)]
    weights = tree[nested[0]] if nested else tree
    records = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if not records:
        keys = [str(key)[:80] for key in tree]
        listed = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
        raise ValueError(
            f"{path} has no tensors under `state_dict` or at its top level; its keys are "
            f"{listed or 'none'}."
        )
    read = _TensorReader(fetch, file_size, path)
    tensors = {str(name): read.tensor(record) for name, record in records.items()}
    others = {**tree, **weights} if nested else dict(tree)
    others = {
        str(key): read.plain(value)
        for key, value in others.items()
        if value is not weights and key not in records
    }
    return PickledWeights(
        tensors=tensors,
        extra={key: value for key, value in others.items() if value is not _NOT_PLAIN},
        ignored=tuple(key for key, value in others.items() if value is _NOT_PLAIN),
    )


class _TensorReader:
    """Copies tensors and plain values out of one file, up to limits that depend on its size."""

    def __init__(self, fetch: _Fetch, file_size: int, path: Path) -> None:
        self.fetch, self.path = fetch, path
        self.bytes_left = _MAX_COPIES * file_size
        self.plain_left = _MAX_PLAIN
        self.read: dict[str, np.ndarray] = {}

    def tensor(self, tensor: Tensor) -> np.ndarray:
        """The values of a tensor in C order; tied weights share one read-only array."""
        # Text, because a file could contain integers chosen so that hashes of their tuples collide.
        key = f"{tensor.storage.key} {tensor[1:]}"
        if key not in self.read:
            self.read[key] = self._copy(tensor)
            self.read[key].flags.writeable = False
        return self.read[key]

    def _copy(self, tensor: Tensor) -> np.ndarray:
        storage, offset, size, stride = tensor
        dtype, elements = _dtype(storage), math.prod(size)
        span = 1 + sum((n - 1) * step for n, step in zip(size, stride)) if elements else 0
        shape = ", ".join(f"{n}" if n < 2**63 else "…" for n in size)
        # A tensor with more elements than its storage repeats some, and a few bytes could fill the
        # memory. The other axes of an empty tensor count too: NumPy refuses shapes above 2**63.
        widest = math.prod(n for n in size if n)
        if offset + span > storage.length or widest > max(storage.length, 2**31):
            raise ValueError(
                f"{self.path} is damaged: a tensor of shape ({shape}) reaches beyond its storage "
                f"of {storage.length} elements."
            )
        if elements > storage.length:
            raise ValueError(
                f"{self.path} is damaged: a tensor of shape ({shape}) repeats its storage of "
                f"{storage.length} elements."
            )
        if not elements:
            return np.empty(size, dtype)
        data = self.fetch(storage)
        if len(data) < storage.length * dtype.itemsize:
            raise ValueError(
                f"{self.path} is truncated: storage {storage.key!r} has {len(data)} bytes, not "
                f"{storage.length * dtype.itemsize}. Download it again."
            )
        self.bytes_left -= elements * dtype.itemsize
        if self.bytes_left < 0:
            raise ValueError(
                f"{self.path} is damaged: its tensors overlap and would take more than "
                f"{_MAX_COPIES} times the file's size."
            )
        flat = np.frombuffer(data, dtype, storage.length)[offset:]
        # The stride of an axis of one element is never used, so files may have any value there.
        strides = tuple(step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride))
        return np.array(np.lib.stride_tricks.as_strided(flat, size, strides), order="C")

    def plain(self, value: Any, levels: int = 3) -> Any:
        """A number, text or dictionary of these; ``_NOT_PLAIN`` for others or deeper nesting."""
        self.plain_left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self.plain_left < 0:
            return _NOT_PLAIN
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor) and value.size == ():
            return self.tensor(value).item()
        if isinstance(value, Mapping) and levels:
            entries = {}
            for key, entry in value.items():
                if self.plain_left < 0:
                    break
                self.plain_left -= len(key) if isinstance(key, str) else 1
                made = self.plain(entry, levels - 1) if isinstance(key, str) else _NOT_PLAIN
                if made is not _NOT_PLAIN:
                    entries[key] = made
            return entries if entries and self.plain_left >= 0 else _NOT_PLAIN
        return _NOT_PLAIN
