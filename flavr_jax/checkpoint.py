# SPDX-License-Identifier: Apache-2.0
"""A checkpoint directory: parameters, the ModelConfig they belong to, and their provenance.

Orbax stores the parameters as a plain nested dict of NumPy arrays, so that a checkpoint loads on
any number of devices and does not depend on Flax's internals. They are read with TensorStore, on
which Orbax is built, so that shapes can be compared with the network's before any array is read.
The scales for 8 bits are in a separate JSON file, because they may be added to a finished
checkpoint later.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util

from flavr_jax import config as configs
from flavr_jax.config import ModelConfig
from flavr_jax.models import classifier, flavr, magnifier
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.models.magnifier import MagnifierConfig
from flavr_jax.partial import Partial, written_whole

__all__ = [
    "Checkpoint",
    "Quantization",
    "add_quantization",
    "average",
    "differences",
    "load",
    "load_classifier",
    "load_magnifier",
    "read_parameters",
    "save",
]

QUANTIZATION = "quantization.json"
_MAX_JSON = 4_000_000
# Arrays may claim this many bytes, plus this many times the size of the files. Trained weights
# hardly compress, but a network of zeros does: one of 73 million float32 parameters has 290 MB.
_SMALL = 300_000_000
_MAX_RATIO = 8
_ITEMS = ("params", "config", "provenance")
AnyConfig: TypeAlias = ModelConfig | ClassifierConfig | MagnifierConfig
_SHAPES: dict[type, Any] = {
    ModelConfig: flavr.parameter_shapes,
    ClassifierConfig: classifier.parameter_shapes,
    MagnifierConfig: magnifier.parameter_shapes,
}
Config = TypeVar("Config", ModelConfig, ClassifierConfig, MagnifierConfig)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Scales for running the network in 8 bits.

    Attributes:
        scales: scale of each feature map that is stored in 8 bits, by name: a stored number times
            the scale is the value. All other maps have 16 bits.
        provenance: JSON values on the origin of the scales: clips, measured losses, date, …
    """

    scales: dict[str, float]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, scale in self.scales.items():
            if not 0 < scale < math.inf:
                raise ValueError(
                    f"the scale of {name!r} is {scale!r}; scales are numbers above 0. "
                    "Compute them again with `flavr quantize`."
                )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint directory.

    Attributes:
        config: the network's settings.
        params: nested dict of NumPy arrays, as :func:`flavr_jax.models.flavr.init` names them.
        provenance: JSON values on the origin: source, hash, date, training data, …
        quantization: scales for 8 bits, if the network was calibrated.
    """

    config: ModelConfig
    params: dict[str, Any]
    provenance: dict[str, Any]
    quantization: Quantization | None = None


def save(
    path: str | Path,
    config: AnyConfig,
    params: dict[str, Any],
    *,
    provenance: dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint directory; it appears under its name only when complete.

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
            marker.unlink()  # contains a path of this machine; `partial.commit` marks success
        if quantization is not None:
            add_quantization(new, quantization)
        partial.commit(new)


def add_quantization(path: str | Path, quantization: Quantization) -> None:
    """Write or replace the scales for 8 bits of a checkpoint.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(Path(path) / QUANTIZATION) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(quantization), indent=1) + "\n")


def _is_ours(entry: Path) -> bool:
    """Return whether ``save`` wrote this entry of a checkpoint's folder and may replace it."""
    names = (*_ITEMS, QUANTIZATION, "_CHECKPOINT_METADATA", "_METADATA")
    return entry.name in names and all((entry.parent / name).is_dir() for name in _ITEMS)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint directory.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is not a checkpoint of this project or is damaged, its parameters do not fit
            its config (every difference is listed), or some are NaN or infinite.
    """
    stored = _open(Path(path).absolute())
    if "n_classes" in stored.config:
        raise ValueError(
            f"{path} is a classifier, not a network that interpolates; use `flavr classify`."
        )
    if "largest_factor" in stored.config:
        raise ValueError(
            f"{path} magnifies motion and does not interpolate; use `flavr magnify --checkpoint`."
        )
    config = _build(ModelConfig, stored, path)
    quantization = _read_quantization(Path(path))
    return Checkpoint(config, _read_arrays(stored, path), stored.provenance, quantization)


def load_classifier(path: str | Path) -> tuple[ClassifierConfig, dict[str, Any], dict[str, Any]]:
    """Read config, parameters and provenance of a classifier; ``"classes"`` there has their names.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is not a classifier, or its parameters do not fit its config.
    """
    remedy = "train a classifier with `flavr train configs/classify_ucf101.toml --init-from`."
    return _load_as(ClassifierConfig, path, "n_classes", f"is no classifier; {remedy}")


def load_magnifier(path: str | Path) -> tuple[MagnifierConfig, dict[str, Any], dict[str, Any]]:
    """Read config, parameters and provenance of a network that magnifies motion.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is another network, or its parameters do not fit its config.
    """
    remedy = "train a network for that with `flavr train configs/magnify.toml`."
    return _load_as(MagnifierConfig, path, "largest_factor", f"does not magnify motion; {remedy}")


def _load_as(
    kind: type[Config], path: str | Path, setting: str, otherwise: str
) -> tuple[Config, dict[str, Any], dict[str, Any]]:
    """Read a network of a kind that one of its settings tells from the others."""
    stored = _open(Path(path).absolute())
    if setting not in stored.config:
        raise ValueError(f"{path} {otherwise}")
    return _build(kind, stored, path), _read_arrays(stored, path), stored.provenance


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Read the parameters of any kind of network, to initialise another one.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is not a checkpoint of this project, or is damaged.
    """
    return _read_arrays(_open(Path(path).absolute()), path)


def average(checkpoints: Sequence[Checkpoint], weights: Sequence[float]) -> dict[str, Any]:
    """Return the weighted mean of the parameters of several training runs of one network.

    If one run was fine-tuned from the other, or both from a third, the mean predicts about as well
    as either. If one run is better in PSNR and the other in LPIPS, the mean lies in between.

    Args:
        checkpoints: checkpoints of the same ``ModelConfig``.
        weights: one for each checkpoint, of sum 1. A negative weight extrapolates away from its
            checkpoint.

    Returns:
        Parameters, summed in float32, in the dtypes of the first checkpoint.

    Raises:
        ValueError: the networks differ, or there is not one weight for each, of sum 1.

    References:
        Wortsman et al. 2022, https://arxiv.org/abs/2109.01903
    """
    if len(weights) != len(checkpoints) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"the weights {list(weights)} are for {len(checkpoints)} checkpoints; give one for "
            "each, of sum 1."
        )
    for other in checkpoints[1:]:
        theirs = vars(other.config)
        differing = [
            f"`{name}` ({value!r} and {theirs[name]!r})"
            for name, value in vars(checkpoints[0].config).items()
            if value != theirs[name]
        ]
        if differing:
            raise ValueError(
                f"the networks differ in {', '.join(differing)}; average checkpoints of the same "
                "network."
            )

    def mean(*leaves: np.ndarray) -> np.ndarray:
        total = sum(weight * leaf.astype(np.float32) for weight, leaf in zip(weights, leaves))
        return np.asarray(total, leaves[0].dtype)

    return jax.tree.map(mean, *(each.params for each in checkpoints))


class _Stored(NamedTuple):
    """An opened checkpoint: parsed JSON, and arrays whose shape is known but which are not read."""

    config: dict[str, Any]
    arrays: dict[tuple[str, ...], ts.TensorStore]
    provenance: dict[str, Any]


def _build(kind: type[Config], stored: _Stored, path: str | Path) -> Config:
    built = configs.build(kind, stored.config, where=str(path))
    wrong = differences(built, traverse_util.unflatten_dict(stored.arrays))
    if wrong:
        raise ValueError(
            f"the parameters in {path} do not fit its config ({built}):\n  " + "\n  ".join(wrong)
        )
    return built


def _open(path: Path) -> _Stored:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a checkpoint directory.")
    if not (path / "params").is_dir() or not (path / "config").is_dir():
        raise ValueError(
            f"{path} is no checkpoint: `params` and `config` are missing. "
            "Convert PyTorch weights with `flavr convert`."
        )
    try:
        config = _read_json(path / "config" / "metadata")
        has_provenance = (path / "provenance").is_dir()
        provenance = _read_json(path / "provenance" / "metadata") if has_provenance else {}
        return _renamed(_Stored(config, _open_arrays(path / "params"), provenance))
    except Exception as error:  # TensorStore documents no list of its errors
        raise _damaged(path, error) from error


def _renamed(stored: _Stored) -> _Stored:
    """Today's settings and names for a checkpoint from when a network had at most one look."""
    if "refine" not in stored.config:
        return stored
    config = dict(stored.config)
    channels, layers = config.pop("refine"), config.pop("refine_layers", 3)
    if channels:
        config["looks"] = [
            {"scale": config.get("trunk_scale", 1), "channels": channels, "layers": layers}
        ]
    arrays = {
        ("head", "looks", "0", *name[1:]) if name[0] == "head" else name: array
        for name, array in stored.arrays.items()
    }
    return stored._replace(config=config, arrays=arrays)


def _open_arrays(folder: Path) -> dict[tuple[str, ...], ts.TensorStore]:
    """Open the arrays that Orbax wrote; refuse sizes out of proportion to the files.

    Orbax itself would read all of them at once, however large they claim to be. If one is damaged,
    its event loop prints the failures of the others as tracebacks.
    """
    index = _read_json(folder / "_METADATA")
    files = {"driver": "file", "path": f"{folder}/"}
    store = {"driver": "ocdbt", "base": files} if index["use_ocdbt"] else files
    arrays = {}
    for entry in index["tree_metadata"].values():
        names = tuple(str(part["key"]) for part in entry["key_metadata"])
        prefix = ".".join(names) + "/"
        kvstore = {**store, "path": prefix if index["use_ocdbt"] else f"{folder}/{prefix}"}
        driver = "zarr3" if index["use_zarr3"] else "zarr"
        # Otherwise a missing chunk would be read as zeros.
        spec = {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}
        arrays[names] = ts.open(ts.Spec(spec), read=True, open=True).result()
    present = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    claimed = sum(_bytes(array) for array in arrays.values())
    if claimed > _SMALL + _MAX_RATIO * present:
        raise ValueError(f"its arrays claim {claimed:,} bytes, its files have {present:,}")
    return arrays


def _bytes(array: ts.TensorStore) -> int:
    """Memory for reading the array: at least one chunk, which is decoded as a whole."""
    chunk = [length or 1 for length in array.chunk_layout.read_chunk.shape or ()]
    numbers = max(math.prod(array.shape), math.prod(chunk))
    return numbers * array.dtype.numpy_dtype.itemsize


def _read_arrays(stored: _Stored, path: str | Path) -> dict[str, Any]:
    try:
        arrays = {name: array.read().result() for name, array in stored.arrays.items()}
    except Exception as error:  # TensorStore documents no list of its errors
        raise _damaged(path, error) from error
    if broken := ["/".join(name) for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(broken)} of {len(arrays)} parameters (the first "
            f"is {broken[0]}), so it predicts nothing; use an earlier checkpoint of that training."
        )
    return traverse_util.unflatten_dict(arrays)


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size; parsed, it takes up to 25 times as much memory."""
    if file.stat().st_size > _MAX_JSON:
        raise ValueError(f"{file.name} has more than {_MAX_JSON:,} bytes")
    try:
        values = json.loads(file.read_text())
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file.name} holds a {type(values).__name__}, not an object")
    return values


def _damaged(path: str | Path, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"{path} is damaged and cannot be read: {reason[:500]}")


def _read_quantization(path: Path) -> Quantization | None:
    file = path / QUANTIZATION
    if not file.exists():
        return None
    try:
        values = _read_json(file)
        values["scales"] = {name: float(scale) for name, scale in values["scales"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{file} is damaged; compute it again with `flavr quantize`, or delete it."
        ) from error
    return configs.build(Quantization, values, where=str(file))


def differences(config: AnyConfig, params: dict[str, Any]) -> list[str]:
    """List every difference between ``params`` and the network's parameters, a line each."""
    expected = _shapes(_SHAPES[type(config)](config))
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
