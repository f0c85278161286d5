# SPDX-License-Identifier: Apache-2.0
"""One way in for every kind of checkpoint: what a file is is read from it, not from its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flavr_jax.torch_weights import pickles

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
_RAW_NAME = re.compile(r"(?P<key>.+)__(?P<shape>\d+(?:x\d+)*)\.bin")


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a checkpoint holds.

    Attributes:
        tensors: the state dict, names as in the file, layouts as PyTorch has them; read-only.
        format: ``PyTorch zip``, ``PyTorch legacy``, ``safetensors`` or ``raw folder``.
        extra: the plain values beside the weights, such as ``epoch`` and ``lr``.
        ignored: names of what is neither, such as ``optimizer``; it was not read.
        sha256: of the file; of a folder, what ``sha256sum *.bin | sha256sum`` prints in it
            (names in the C locale's order).
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
        UnsafePickleError: a pickle asks for anything but tensors and plain containers.
        ValueError: the file is none of these, or is damaged.
        FileNotFoundError: there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        return _read_raw_folder(path)
    with path.open("rb") as file:
        head = file.read(9)
    digest = _sha256(path)
    # A zip's signature; protocol 2 or later of a pickle; a JSON object after its own length.
    if head.startswith(b"PK\x03\x04"):
        weights, kind = pickles.read_zip(path), "PyTorch zip"
    elif head.startswith(b"\x80"):
        weights, kind = pickles.read_legacy(path), "PyTorch legacy"
    elif head[8:] == b"{":
        tensors, extra = _read_safetensors(path)
        return TorchFile(tensors, "safetensors", extra, (), digest)
    else:
        raise ValueError(
            f"{path} is not a checkpoint: it begins like neither a PyTorch file (zip or legacy) "
            "nor a .safetensors. Give one of these, or a folder of cuFLAVR's .bin tensors."
        )
    return TorchFile(weights.tensors, kind, weights.extra, weights.ignored, digest)


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and free-form metadata; https://huggingface.co/docs/safetensors describes both."""
    data = np.memmap(path, np.uint8, "r")
    try:
        (length,) = struct.unpack("<Q", data[:8].tobytes())
        if length > len(data) - 8:
            raise ValueError(f"its header should have {length} bytes")
        header = json.loads(data[8 : 8 + length].tobytes())
        metadata = dict(header.pop("__metadata__", {}))
        tensors = {}
        for name, entry in header.items():
            dtype, shape = _SAFETENSORS_DTYPES.get(entry["dtype"]), tuple(entry["shape"])
            if dtype is None:
                raise ValueError(
                    f"`{name}` has dtype {entry['dtype']}; "
                    f"{', '.join(_SAFETENSORS_DTYPES)} are understood"
                )
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            if stop > len(data) or stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"`{name}` does not fit its place in the file")
            tensors[name] = np.frombuffer(data[start:stop].tobytes(), dtype).reshape(shape)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a sound .safetensors file: {error}.") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensors; give a file with a network's state dict.")
    return tensors, metadata


def _read_raw_folder(path: Path) -> TorchFile:
    """A folder of cuFLAVR's: one file a tensor, named after it and its shape, float32 inside."""
    files = sorted(path.glob("*.bin"), key=lambda file: file.name.encode())
    if not files:
        raise ValueError(
            f"{path} is a folder without .bin files; a folder of raw tensors holds one "
            "`<name>__<d0>x<d1>….bin` a tensor."
        )
    problems: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        match, data = _RAW_NAME.fullmatch(file.name), file.read_bytes()
        shape = tuple(int(size) for size in match["shape"].split("x")) if match else ()
        if match is None:
            problems.append(f"{file.name} is not named `<name>__<d0>x<d1>….bin`")
        elif match["key"] in tensors:
            problems.append(f"{file.name} is the same tensor as another file, in another shape")
        elif len(data) != 4 * math.prod(shape):
            problems.append(f"{file.name} has {len(data)} bytes, not {4 * math.prod(shape)}")
        else:
            tensors[match["key"]] = np.frombuffer(data, "<f4").reshape(shape)
    if problems:
        raise ValueError(f"{path} is not a sound folder of raw tensors: {'; '.join(problems)}.")
    listing = "".join(f"{_sha256(file)}  {file.name}\n" for file in files)
    return TorchFile(tensors, "raw folder", {}, (), hashlib.sha256(listing.encode()).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
