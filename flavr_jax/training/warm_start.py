# SPDX-License-Identifier: Apache-2.0
"""Parameters to start from: those of another checkpoint, wherever name and shape are the same.

A network of another factor shares all but its last layer with this one, a classifier the encoder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from flavr_jax import checkpoint
from flavr_jax.models.flavr import Parameters

__all__ = ["WarmStart", "warm_start"]


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Parameters, and which of them were taken.

    Attributes:
        params: of the network that is to be trained.
        taken: names of the tensors that were taken over.
        left: names of those that keep their random start, and why.
        share: of the parameters taken over, from 0 to 1.
    """

    params: Parameters
    taken: tuple[str, ...]
    left: dict[str, str]
    share: float

    def summary(self) -> str:
        """One line on it."""
        text = f"{len(self.taken)} tensors taken ({self.share:.1%} of the parameters)"
        if not self.left:
            return f"{text}, which is all of them"
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
        return f"{text}, {len(self.left)} not: {reasons}"


def warm_start(params: Parameters, path: Path) -> WarmStart:
    """Replace what the checkpoint at ``path`` has under the same name in the same shape.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is none of this project, or nothing in it fits.
    """
    mine: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    theirs: dict[str, Any] = traverse_util.flatten_dict(checkpoint.read_parameters(path), sep="/")
    taken, left = {}, {}
    for name, leaf in mine.items():
        other = theirs.get(name)
        if other is None:
            left[name] = "not there"
        elif np.shape(other) != np.shape(leaf):
            left[name] = f"{_size(other)} there, {_size(leaf)} here"
        else:
            taken[name] = np.asarray(other, np.float32)
    if not taken:
        raise ValueError(
            f"nothing in {path} fits this network; choose a checkpoint of the same `width`."
        )
    count = sum(leaf.size for leaf in taken.values())
    share = count / sum(np.size(leaf) for leaf in mine.values())
    return WarmStart(
        traverse_util.unflatten_dict({**mine, **taken}, sep="/"), tuple(taken), left, share
    )


def _size(leaf: Any) -> str:
    return "×".join(map(str, np.shape(leaf)))
