# SPDX-License-Identifier: Apache-2.0
"""A checkpoint directory: parameters, the ModelConfig they belong to, and where they came from.

Orbax stores the parameters as a plain nested dict of NumPy arrays, so that a checkpoint loads on
any number of devices and does not depend on Flax's internals. Orbax hands back whatever shapes it
finds, so the shapes are checked here against the network's.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from flavr_jax import config as configs
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

__all__ = ["Checkpoint", "differences", "load", "save"]

PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds.

    Attributes:
        config: the network's settings.
        params: nested dict of NumPy arrays, as :func:`flavr_jax.models.flavr.init` names them.
        provenance: plain values on the origin: source, hash, date, training data, …
    """

    config: ModelConfig
    params: dict[str, Any]
    provenance: dict[str, Any]


def save(
    path: str | Path,
    config: ModelConfig,
    params: dict[str, Any],
    *,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint directory; it appears under its name only when complete.

    Raises:
        FileExistsError: the directory exists and ``overwrite`` is not set.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another directory or pass --overwrite.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    items = {
        "params": ocp.args.StandardSave(jax.tree.map(np.asarray, params)),
        "config": ocp.args.JsonSave(dataclasses.asdict(config)),
        "provenance": ocp.args.JsonSave(provenance or {}),
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(partial, ocp.args.Composite(**items))
    for marker in partial.rglob("commit_success.txt"):
        marker.unlink()  # holds this machine's path; the renaming below is what commits
    if path.exists():
        old = path.with_name(path.name + ".old" + PARTIAL)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint directory.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is no checkpoint of this project, or its parameters do not fit its config
            (every difference is listed).
    """
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a checkpoint directory.")
    if not (path / "params").is_dir() or not (path / "config").is_dir():
        raise ValueError(
            f"{path} is no checkpoint: `params` and `config` are missing. "
            "Convert PyTorch weights with scripts/convert_torch.py."
        )
    items = {"params": ocp.args.StandardRestore(), "config": ocp.args.JsonRestore()}
    if (path / "provenance").is_dir():
        items["provenance"] = ocp.args.JsonRestore()
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            stored = checkpointer.restore(path, ocp.args.Composite(**items))
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged and cannot be read: {reason}") from error
    config = configs.build(ModelConfig, stored["config"], where=str(path))
    wrong = differences(config, stored["params"])
    if wrong:
        raise ValueError(
            f"the parameters in {path} do not fit its config ({config}):\n  " + "\n  ".join(wrong)
        )
    return Checkpoint(config, stored["params"], stored.get("provenance") or {})


def differences(config: ModelConfig, params: dict[str, Any]) -> list[str]:
    """Every way in which ``params`` departs from the network's tree, a line each."""
    expected, found = _shapes(flavr.parameter_shapes(config)), _shapes(params)
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is not part of the network" for name in found if name not in expected]
    lines += [
        f"{name} has the shape {found[name]}; the network needs {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return lines


def _shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every leaf's path and shape."""
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}
