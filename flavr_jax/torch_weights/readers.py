# SPDX-License-Identifier: Apache-2.0
"""Read any kind of checkpoint; its first bytes determine the format, not its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flavr_jax.torch_weights import pickles
from flavr_jax.torch_weights.stand_ins import MAX_RANK

__all__ = ["TorchFile", "read"]

_SAFETENSORS_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
# Parsed JSON takes up to 25 times its size in memory; headers of such networks have kilobytes.
_MAX_HEADER = 16_000_000
_RAW_NAME = re.compile(r"(?P<key>.+)__(?P<shape>\d+(?:x\d+)*)\.bin")


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """The contents of a checkpoint.

    Attributes:
        tensors: the state dict with the file's names and PyTorch's layouts; read-only.
        format: ``PyTorch zip``, ``PyTorch legacy``, ``safetensors`` or ``raw folder``.
        extra: plain values stored with the weights, such as ``epoch`` and ``lr``.
        ignored: names of all other entries, such as ``optimizer``, which were not read.
        sha256: digest of the file. For a folder, the digest that ``sha256sum *.bin | sha256sum``
            prints there, with names in the order of the C locale.
    """

    tensors: dict[str, np.ndarray]
    format: str
    extra: dict[str, Any]
    ignored: tuple[str, ...]
    sha256: str


def read(path: str | Path) -> TorchFile:
    """Read a checkpoint without PyTorch and without running anything in it.

    Args:
        path: a ``.pth``/``.pt``/``.ckpt`` of either format, a ``.safetensors``, or cuFLAVR's folder
            of ``<name>__<d0>x<d1>….bin`` tensors.

    Raises:
        UnsafePickleError: a pickle uses anything but tensors and plain containers.
        ValueError: the file has another format, is damaged, or describes more data than it holds.
        FileNotFoundError: ``path`` does not exist.
    """
    path = Path(path)
    if path.is_dir():
        return _read_raw_folder(path)
    if path.exists() and not path.is_file():
        # Reading a pipe could block forever, and /dev/zero never ends.
        raise ValueError(f"{path} is a pipe or device; copy what it gives into a file first.")
    with path.open("rb") as file:
        head = file.read(9)
    # The signature of a zip; a pickle of protocol 2 or later; a JSON object after its length.
    if head.startswith(b"PK\x03\x04"):
        weights, kind = pickles.read_zip(path), "PyTorch zip"
    elif head.startswith(b"\x80"):
        weights, kind = pickles.read_legacy(path), "PyTorch legacy"
    elif head[8:] == b"{":
        tensors, extra = _read_safetensors(path)
        return TorchFile(tensors, "safetensors", extra, (), _sha256(path))
    else:
        raise ValueError(
            f"{path} is not a checkpoint: it begins like neither a PyTorch file (zip or legacy) "
            "nor a .safetensors. Give one of these, or a folder of cuFLAVR's .bin tensors."
        )
    return TorchFile(weights.tensors, kind, weights.extra, weights.ignored, _sha256(path))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read tensors and metadata; https://huggingface.co/docs/safetensors describes the format."""
    data = np.memmap(path, np.uint8, "r")
    try:
        (length,) = struct.unpack("<Q", data[:8].tobytes())
        if length > min(len(data) - 8, _MAX_HEADER):
            raise ValueError(
                f"its header claims {length} bytes; it has at most {_MAX_HEADER} and lies within "
                "the file"
            )
        header = json.loads(data[8 : 8 + length].tobytes())
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("`__metadata__` holds something other than text")
        tensors, body = dict[str, np.ndarray](), data[8 + length :]
        left = len(body)
        for name, entry in header.items():
            tensors[name] = _safetensor(name, entry, body)
            left -= tensors[name].nbytes
            # The format forbids overlaps, with which a small file could fill the memory.
            if left < 0:
                raise ValueError("its tensors overlap")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a sound .safetensors file: {error}.") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensors; give a file with a network's state dict.")
    return tensors, metadata


def _safetensor(name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    """Copy the tensor that an entry of the header describes."""
    dtype, shape = _SAFETENSORS_DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if dtype is None:
        raise ValueError(
            f"`{name}` has dtype {entry['dtype']}; {', '.join(_SAFETENSORS_DTYPES)} are understood"
        )
    if not _is_shape(shape):
        raise ValueError(f"`{name}` has a shape that no tensor has")
    whole = type(start) is int and type(stop) is int and 0 <= start <= stop <= len(data)
    if not whole or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"`{name}` does not fit its place in the file")
    return np.frombuffer(data[start:stop].tobytes(), dtype).reshape(shape)


def _is_shape(shape: tuple[Any, ...]) -> bool:
    """Return whether NumPy can make an array of this shape, if memory allows."""
    if len(shape) > MAX_RANK or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        return False
    return math.prod(n for n in shape if n) < 2**59  # applies to empty arrays, too


def _read_raw_folder(path: Path) -> TorchFile:
    """Read cuFLAVR's folder: a float32 file per tensor, named after the tensor and its shape."""
    files = sorted(path.glob("*.bin"), key=lambda file: os.fsencode(file.name))
    if not files:
        raise ValueError(
            f"{path} is a folder without .bin files; a folder of raw tensors holds one "
            "`<name>__<d0>x<d1>….bin` a tensor."
        )
    problems: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        match, size = _RAW_NAME.fullmatch(file.name), file.stat().st_size
        shape = tuple(int(length) for length in match["shape"].split("x")) if match else ()
        if match is None:
            problems.append(f"{file.name} is not named `<name>__<d0>x<d1>….bin`")
        elif match["key"] in tensors:
            problems.append(f"{file.name} is the same tensor as another file, in another shape")
        elif not file.is_file() or not _is_shape(shape):
            problems.append(f"{file.name} is no regular file, or has a shape that no tensor has")
        elif size != 4 * math.prod(shape):
            problems.append(f"{file.name} has {size} bytes, not {4 * math.prod(shape)}")
        else:
            tensors[match["key"]] = np.frombuffer(file.read_bytes(), "<f4").reshape(shape)
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"{path} is not a sound folder of raw tensors: {'; '.join(problems[:10])}{more}."
        )
    listing = b"".join(
        f"{_sha256(file)}  ".encode() + os.fsencode(file.name) + b"\n" for file in files
    )
    return TorchFile(tensors, "raw folder", {}, (), hashlib.sha256(listing).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
