# SPDX-License-Identifier: Apache-2.0
"""A run's state on disk: what a stopped run goes on from, bit for bit.

Orbax writes in the background, and a state counts only once it is complete: a run that is killed
while it saves goes on from the state before. Leaves are stored under their names as NumPy arrays;
so a state does not depend on how many devices there are, nor on optax's own structures.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jaxtyping import PyTree

from flavr_jax.training import parallel
from flavr_jax.training.state import TrainState

__all__ = ["Checkpoints", "from_arrays", "to_arrays"]

Tree = TypeVar("Tree")

_KEPT = 2


class Checkpoints:
    """The states in one folder, the latest few; use it as a context."""

    def __init__(self, folder: Path) -> None:
        """Open or create the folder."""
        # Orbax tells of every save on its own, in many lines.
        logging.getLogger("absl").setLevel(logging.WARNING)
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.last = self._manager.latest_step()  # saved, or being saved

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest complete state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Write a state, and plain values beside it, while the caller goes on.

        All processes of a run call this; one writes.
        """
        tree = traverse_util.unflatten_dict(to_arrays(state), sep="/")
        items = {"state": ocp.args.StandardSave(tree), "host": ocp.args.JsonSave(host)}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.last = step

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, on the host, and the plain values.

        Raises:
            ValueError: when it is not shaped as ``like``: another network's, or optimiser's.
        """
        step = self.latest()
        assert step is not None, "asked for only where there is one"
        items = {"state": ocp.args.StandardRestore(), "host": ocp.args.JsonRestore()}
        stored = self._manager.restore(step, args=ocp.args.Composite(**items))
        arrays = traverse_util.flatten_dict(stored["state"], sep="/")
        return from_arrays(arrays, like, where=str(self._folder / str(step))), stored["host"]


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Copies of all leaves on the host, by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.to_host(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_arrays(arrays: dict[str, Any], like: Tree, *, where: str) -> Tree:
    """The tree of the structure of ``like`` with these leaves.

    Raises:
        ValueError: when names or shapes differ; ``where`` says whose they are.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    expected = {name: leaf.shape for name, leaf in named.items()}
    found = {name: np.shape(leaf) for name, leaf in arrays.items()}
    if expected != found:
        names = sorted({*expected, *found})
        differing = [name for name in names if expected.get(name) != found.get(name)]
        raise ValueError(
            f"{where} is the state of another network or optimiser: {len(differing)} arrays "
            f"differ, {differing[0]} first. Resume with the recipe it was started with, or start "
            "anew from its checkpoint with --init-from."
        )
    return jax.tree.unflatten(structure, [np.asarray(arrays[name]) for name in expected])
