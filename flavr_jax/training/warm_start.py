# SPDX-License-Identifier: Apache-2.0
"""Warm start: initial parameters from a checkpoint, where names and shapes are the same.

Networks of different factors share all but the last layer; a classifier shares the encoder. A wider
decoder, and wider looks (:mod:`flavr_jax.models.head`), start by computing the same function as the
narrower ones: the weights that read their new channels start at zero. So do looks that are new in
front of the others: their corrections start at zero.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Int

from flavr_jax import checkpoint
from flavr_jax.models.flavr import Parameters
from flavr_jax.models.look import pixels_read

__all__ = ["WarmStart", "warm_start"]

_LOOKS = "head/looks/"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Initial parameters and their origin.

    Attributes:
        params: parameters of the network to train.
        taken: names of the tensors taken from the checkpoint.
        widened: names of the taken tensors that are larger in this network.
        left: names of the tensors that stay random, with the reason.
        share: share of the parameters that was taken, from 0 to 1.
    """

    params: Parameters
    taken: tuple[str, ...]
    widened: tuple[str, ...]
    left: dict[str, str]
    share: float

    def summary(self) -> str:
        """Describe the start in one line."""
        text = f"{len(self.taken)} tensors taken ({self.share:.1%} of the parameters)"
        if self.widened:
            text = f"{text}, {len(self.widened)} of them into wider ones"
        if not self.left:
            return f"{text}, which is all of them"
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
        return f"{text}, {len(self.left)} not: {reasons}"


def warm_start(params: Parameters, path: Path) -> WarmStart:
    """Replace those of ``params`` that a checkpoint has with the same name and shape.

    A narrower decoder and narrower looks are embedded in these, which then compute the same
    function, and nearly the same if a look predicts more pairs of flows. Fewer looks become the
    last ones of these; the corrections of those in front start at zero.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        ValueError: it is not a checkpoint of this project, or nothing in it fits.
    """
    mine: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    theirs: dict[str, Any] = traverse_util.flatten_dict(checkpoint.read_parameters(path), sep="/")
    new_looks = _looks_in_front(mine, theirs)
    theirs = _with_looks_behind(theirs, new_looks)
    mine = {
        name: np.zeros_like(leaf) if _of_correction(name, new_looks) else leaf
        for name, leaf in mine.items()
    }
    wider = _wider_decoder(mine, theirs) | _wider_looks(mine, theirs)
    taken, left = dict(wider), {}
    for name, leaf in mine.items():
        if name in wider:
            continue
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
    count = sum(np.size(theirs[name]) for name in taken)
    share = count / sum(np.size(leaf) for leaf in mine.values())
    grown = traverse_util.unflatten_dict({**mine, **taken}, sep="/")
    return WarmStart(grown, tuple(taken), tuple(wider), left, share)


def _wider_decoder(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return this decoder's tensors with a narrower decoder embedded; empty if it is not narrower.

    A stage reads the channels of the previous stage, followed by those of the encoder's skip.
    """
    kernels = [f"decoder/stages/{number}/conv/kernel" for number in range(5)]
    if not all(name in mine and name in theirs for name in kernels):
        return {}
    (before, *_), (narrow_before, *_) = ((*np.shape(of[kernels[0]])[-2:],) for of in (mine, theirs))
    found = {}
    for name in kernels:
        (reads, writes), (narrow_reads, narrow_writes) = (
            np.shape(of[name])[-2:] for of in (mine, theirs)
        )
        skip = reads - before
        if skip != narrow_reads - narrow_before or narrow_writes > writes:
            return {}
        rows = np.concatenate([np.arange(narrow_before), before + np.arange(skip)])
        columns = np.arange(narrow_writes)
        stage = name.removesuffix("conv/kernel")
        for leaf, into in mine.items():
            if leaf.startswith(stage) and leaf in theirs and np.shape(into) != theirs[leaf].shape:
                # Only convolutions read what the stage reads; a gate maps the stage's outputs to
                # themselves.
                inputs = rows if into.ndim == 5 else columns
                found[leaf] = _embedded(into, np.asarray(theirs[leaf], np.float32), inputs, columns)
        before, narrow_before = writes, narrow_writes
    return found


def _pixels_of_looks(params: dict[str, Any]) -> list[int]:
    """Number of pixels that each look takes as one position."""
    pixels = []
    while (name := f"{_LOOKS}{len(pixels)}/read/kernel") in params:
        pixels.append(pixels_read(np.shape(params[name])[-2]))
    return pixels


def _looks_in_front(mine: dict[str, Any], theirs: dict[str, Any]) -> int:
    """Number of looks that this network has in front of those of the other one.

    It is the difference of their numbers of looks, if the last looks here take as many pixels as
    one position as the looks there. Otherwise it is 0, and looks are matched by their numbers.
    """
    here, there = _pixels_of_looks(mine), _pixels_of_looks(theirs)
    more = len(here) - len(there)
    return more if there and more > 0 and here[more:] == there else 0


def _with_looks_behind(theirs: dict[str, Any], new_looks: int) -> dict[str, Any]:
    """The other network's parameters with its looks numbered from ``new_looks`` on."""
    renamed = {}
    for name, leaf in theirs.items():
        if name.startswith(_LOOKS):
            number, _, rest = name.removeprefix(_LOOKS).partition("/")
            name = f"{_LOOKS}{int(number) + new_looks}/{rest}"
        renamed[name] = leaf
    return renamed


def _of_correction(name: str, new_looks: int) -> bool:
    """Whether a parameter computes the corrections of one of the first ``new_looks`` looks."""
    return any(name.startswith(f"{_LOOKS}{number}/correct/") for number in range(new_looks))


def _wider_looks(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of looks with narrower looks, or fewer pairs of flows, embedded."""
    found = {}
    for name, into in mine.items():
        old, new = np.shape(theirs.get(name, 0.0)), np.shape(into)
        wider = len(old) == len(new) and old != new and all(np.array(old) <= new)
        if not (name.startswith(_LOOKS) and wider):
            continue
        read = "/".join((*name.split("/")[:3], "read", "kernel"))
        pixels, *before = (
            pixels_read(np.shape(of[read])[-2]) for of in (mine, theirs) if read in of
        )
        if before != [pixels]:  # its channels belong to other pixels
            continue
        columns = np.arange(old[-1])
        if "/correct/" in name:
            # Raw outputs of one pixel after another; further pairs follow the others of a pixel.
            columns = np.arange(new[-1]).reshape(pixels, -1)[:, : old[-1] // pixels].ravel()
        rows = np.arange(old[-2]) if len(old) > 1 else columns
        found[name] = _embedded(into, np.asarray(theirs[name], np.float32), rows, columns)
    return found


def _embedded(
    into: Any, values: np.ndarray, rows: Int[np.ndarray, " rows"], columns: Int[np.ndarray, " out"]
) -> np.ndarray:
    """Return ``into`` with ``values`` at rows × columns, and zeros in the columns' other rows."""
    embedded = np.array(into, np.float32)
    # Zeros, so that added input channels have no effect until training gives them one.
    embedded[..., columns] = 0.0
    place = (columns,) if embedded.ndim == 1 else np.ix_(rows, columns)
    embedded[(..., *place)] = values
    return embedded


def _size(leaf: Any) -> str:
    """Format a shape for messages."""
    return "×".join(map(str, np.shape(leaf)))
