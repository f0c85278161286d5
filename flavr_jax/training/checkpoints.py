# SPDX-License-Identifier: Apache-2.0
"""States of a run on disk, from which a stopped run continues bit for bit.

Orbax writes in the background, and only complete states count: a run that is killed during a save
continues from the previous state. Leaves are stored by name as NumPy arrays, so that a state does
not depend on the number of devices or on optax's data structures.
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

_KEPT = 2  # number of states; older ones are deleted


class Checkpoints:
    """The latest states of a run, in one folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open or create the folder."""
        # Orbax logs many lines for every save.
        logging.getLogger("absl").setLevel(logging.WARNING)
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self.last = self._manager.latest_step()  # newest step saved or being saved

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        # Waits for a save in the background.
        self._manager.close()

    def latest(self) -> int | None:
        """Return the step of the newest complete state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
        """Write a state and JSON values (``host``) in the background.

        All processes of a run must call this; only one of them writes.
        """
        # The step reuses the donated buffers while Orbax writes, so the leaves are copied first.
        tree = traverse_util.unflatten_dict(to_arrays(state), sep="/")
        items = {"state": ocp.args.StandardSave(tree), "host": ocp.args.JsonSave(host)}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.last = step

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Read the newest state into host memory, and the JSON values saved with it.

        Raises:
            ValueError: the names or shapes differ from those of ``like``, because the state belongs
                to another network or optimiser.
        """
        step = self.latest()
        assert step is not None, "call this only if latest() is not None"
        items = {"state": ocp.args.StandardRestore(), "host": ocp.args.JsonRestore()}
        stored = self._manager.restore(step, args=ocp.args.Composite(**items))
        arrays = traverse_util.flatten_dict(stored["state"], sep="/")
        return from_arrays(arrays, like, where=str(self._folder / str(step))), stored["host"]


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Copy all leaves to the host, by their path in the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.to_host(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_arrays(arrays: dict[str, Any], like: Tree, *, where: str) -> Tree:
    """Return a tree like ``like`` with these leaves.

    Raises:
        ValueError: names or shapes differ; the message says ``where`` the arrays come from.
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
