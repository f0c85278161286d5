# SPDX-License-Identifier: Apache-2.0
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def torch_files() -> Path:
    """Small checkpoints written by PyTorch; make.py beside them says how."""
    return TESTS / "data" / "torch"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the official code; README.md there says how they were made."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def golden_shapes(golden: Path) -> Callable[[str], dict[str, tuple[int, ...]]]:
    """Names and shapes of a golden case's state dict."""

    def shapes(case: str) -> dict[str, tuple[int, ...]]:
        keys = json.loads((golden / f"{case}.keys.json").read_text())
        return {name: tuple(shape) for name, shape in keys.items()}

    return shapes


@pytest.fixture(scope="session")
def golden_tensor() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """The tensor that belongs to a name, by the rule of golden/README.md."""

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(
            shape
        )
        if name.endswith(".running_var"):
            values = 0.5 + np.abs(values)
        elif name.endswith((".bias", ".running_mean")):
            values = 0.1 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        return values.astype(np.float32)

    return tensor


@pytest.fixture(scope="session")
def write_safetensors() -> Callable[[Path, Mapping[str, tuple[str, np.ndarray]]], None]:
    """Writes ``{name: (dtype's name in the format, array)}``, after the format's description."""

    def write(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, (dtype, array) in tensors.items():
            end = position + array.nbytes
            header[name] = {
                "dtype": dtype,
                "shape": list(array.shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(header).encode()
        data = b"".join(array.tobytes() for _, array in tensors.values())
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return write
