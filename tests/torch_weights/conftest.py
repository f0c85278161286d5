# SPDX-License-Identifier: Apache-2.0
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def torch_files() -> Path:
    """Small checkpoints written by PyTorch; make.py beside them says how."""
    return Path(__file__).parents[1] / "data" / "pytorch"


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
