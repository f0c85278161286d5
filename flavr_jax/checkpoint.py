# SPDX-License-Identifier: Apache-2.0
"""A checkpoint directory: parameters, the ModelConfig they belong to, and where they came from.

Orbax stores the parameters as a plain nested dict of NumPy arrays, so that a checkpoint loads on
any number of devices and does not depend on Flax's internals. Orbax hands back whatever shapes it
finds, so the shapes are checked here against the network's. What 8 bits need to know is a JSON file
beside them, for it may be added to a checkpoint that is complete without it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from flavr_jax import config as configs
from flavr_jax.config import ModelConfig
from flavr_jax.models import classifier, flavr
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.partial import Partial, written_whole

__all__ = [
    "Checkpoint",
    "Quantization",
    "add_quantization",
    "average",
    "differences",
    "load",
    "load_classifier",
    "read_parameters",
    "save",
]

QUANTIZATION = "quantization.json"
_ITEMS = ("params", "config", "provenance")
Config = TypeVar("Config", ModelConfig, ClassifierConfig)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the network runs in 8 bits.

    Attributes:
        scales: of the feature maps that are stored in 8 bits, by name: what one unit of a stored
            number is worth. The others are of 16 bits.
        provenance: plain values on where they come from: clips, measured losses, date, …
    """

    scales: dict[str, float]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, scale in self.scales.items():
            if not 0 < scale < math.inf:
                raise ValueError(
                    f"the scale of {name!r} is {scale!r}; scales are numbers above 0. "
                    "Make them anew with scripts/quantize.py."
                )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds.

    Attributes:
        config: the network's settings.
        params: nested dict of NumPy arrays, as :func:`flavr_jax.models.flavr.init` names them.
        provenance: plain values on the origin: source, hash, date, training data, …
        quantization: how it runs in 8 bits, if it was calibrated.
    """

    config: ModelConfig
    params: dict[str, Any]
    provenance: dict[str, Any]
    quantization: Quantization | None = None


def save(
    path: str | Path,
    config: ModelConfig | ClassifierConfig,
    params: dict[str, Any],
    *,
    provenance: dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint directory; it appears under its name only when complete.

    Raises:
        FileExistsError: the directory exists and ``overwrite`` is not set.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another directory or pass --overwrite.")
    items = {
        "params": ocp.args.StandardSave(jax.tree.map(np.asarray, params)),
        "config": ocp.args.JsonSave(dataclasses.asdict(config)),
        "provenance": ocp.args.JsonSave(provenance or {}),
    }
    with Partial(path, overwrite=overwrite, folder=True, ours=_is_ours) as partial:
        new = partial.path / "new"  # Orbax makes the folder itself
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(new, ocp.args.Composite(**items))
        for marker in new.rglob("commit_success.txt"):
            marker.unlink()  # holds this machine's path; the renaming below is what commits
        if quantization is not None:
            add_quantization(new, quantization)
        partial.commit(new)


def add_quantization(path: str | Path, quantization: Quantization) -> None:
    """Writes into a checkpoint how it runs in 8 bits, in place of what it said of that.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(Path(path) / QUANTIZATION) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(quantization), indent=1) + "\n")


def _is_ours(entry: Path) -> bool:
    """True for what ``save`` writes into a checkpoint's folder, and replaces."""
    names = (*_ITEMS, QUANTIZATION, "_CHECKPOINT_METADATA", "_METADATA")
    return entry.name in names and all((entry.parent / name).is_dir() for name in _ITEMS)


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint directory.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is no checkpoint of this project, or its parameters do not fit its config
            (every difference is listed), or are NaN or infinite.
    """
    config, params, provenance = _restore(Path(path).absolute())
    if "n_classes" in config:
        raise ValueError(
            f"{path} is a classifier, not a network that interpolates; use scripts/classify.py."
        )
    built = _build(ModelConfig, config, params, path)
    return Checkpoint(built, params, provenance, _read_quantization(Path(path)))


def load_classifier(
    path: str | Path,
) -> tuple[ClassifierConfig, dict[str, Any], dict[str, Any]]:
    """Config, parameters and provenance of a classifier; the latter has the names of ``classes``.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no classifier, or parameters that do not fit its config.
    """
    config, params, provenance = _restore(Path(path).absolute())
    if "n_classes" not in config:
        raise ValueError(
            f"{path} is a network that interpolates; train a classifier from it with "
            "scripts/train.py configs/classify_ucf101.toml --init-from."
        )
    return _build(ClassifierConfig, config, params, path), params, provenance


def read_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters in a checkpoint of any kind of network, to start another one from.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is no checkpoint of this project.
    """
    return _restore(Path(path).absolute())[1]


def average(checkpoints: Sequence[Checkpoint], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted mean of the parameters of one network, trained in different ways.

    Where one is trained on from the other, or both from a third, the mean predicts about as well as
    either, and lies between them in what they are good at, say PSNR and LPIPS.

    Args:
        checkpoints: of the same ``ModelConfig``.
        weights: one for each, of sum 1; one below 0 leads away from its checkpoint.

    Returns:
        Parameters, summed in float32, of the first one's types.

    Raises:
        ValueError: the networks differ, or the weights are not as said.

    References:
        Wortsman et al. 2022, https://arxiv.org/abs/2109.01903
    """
    if len(weights) != len(checkpoints) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"the weights {list(weights)} are for {len(checkpoints)} checkpoints; give one for "
            "each, of sum 1."
        )
    for other in checkpoints[1:]:
        if other.config != checkpoints[0].config:
            raise ValueError(
                f"a network of {other.config} has no mean with one of {checkpoints[0].config}; "
                "average checkpoints of the same network."
            )

    def mean(*leaves: np.ndarray) -> np.ndarray:
        total = sum(weight * leaf.astype(np.float32) for weight, leaf in zip(weights, leaves))
        return np.asarray(total, leaves[0].dtype)

    return jax.tree.map(mean, *(each.params for each in checkpoints))


def _build(
    kind: type[Config], config: dict[str, Any], params: dict[str, Any], path: str | Path
) -> Config:
    built = configs.build(kind, config, where=str(path))
    wrong = differences(built, params)
    if wrong:
        raise ValueError(
            f"the parameters in {path} do not fit its config ({built}):\n  " + "\n  ".join(wrong)
        )
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    if broken := [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(broken)} of {len(leaves)} parameters (the first "
            f"is {broken[0]}), so it predicts nothing; use an earlier checkpoint of that training."
        )
    return built


def _restore(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Config, parameters and provenance as they are stored."""
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
    return stored["config"], stored["params"], stored.get("provenance") or {}


def _read_quantization(path: Path) -> Quantization | None:
    file = path / QUANTIZATION
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text())
        values["scales"] = {name: float(scale) for name, scale in values["scales"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged; make it anew with scripts/quantize.py, or delete it."
        ) from error
    return configs.build(Quantization, values, where=str(file))


def differences(config: ModelConfig | ClassifierConfig, params: dict[str, Any]) -> list[str]:
    """Every way in which ``params`` departs from the network's tree, a line each."""
    if isinstance(config, ClassifierConfig):
        expected = _shapes(classifier.parameter_shapes(config))
    else:
        expected = _shapes(flavr.parameter_shapes(config))
    found = _shapes(params)
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
