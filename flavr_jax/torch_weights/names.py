# SPDX-License-Identifier: Apache-2.0
"""Convert a PyTorch FLAVR's tensors to our parameters: recognise the variant, rename, transpose.

The list of expected parameters comes from the model itself. Each parameter is looked up under its
name in the official code, and all surplus and missing tensors are reported together. mmagic's FLAVR
is the same network with other names, which are first translated to the official ones. Both released
networks take RGB in [0, 1].
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from flax import traverse_util

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

__all__ = ["Conversion", "Mapped", "Mismatch", "convert", "recognise"]

Join = Literal["concat", "add", "none"]

# Applied in this order; the only part of an official name that they change is `module.`.
_TO_OFFICIAL = (
    (r"^(module\.|generator\.)+", ""),  # DataParallel's wrapper, mmagic's interpolator
    (r"^encoder\.stem_layer\.", "encoder.stem."),
    (r"^(encoder\..+)\.conv\.(\w+)$", r"\1.0.\2"),  # mmcv's ConvModule: a convolution
    (r"^(encoder\..+)\.bn\.(\w+)$", r"\1.1.\2"),  # and its normalisation
    (r"^decoder\.layer(\d)\.", r"decoder.\1."),
    (r"^feature_fuse\.conv\.(\w+)$", r"feature_fuse.conv.0.\1"),
    (r"^feature_fuse\.bn\.(\w+)$", r"feature_fuse.conv.1.\1"),
    (r"^conv_last\.", "outconv."),
    # Without normalisation, the last layer of an official (2+1)-D convolution has the index 2;
    # torchvision's has 3.
    (r"(\.conv[12]\.0)\.2\.(\w+)$", r"\1.3.\2"),
)
# BatchNorm's counters, an averaged copy of the weights, and buffers of mmengine's wrappers.
_IGNORED = re.compile(r"num_batches_tracked$|^generator_ema\.|^step_counter$|^data_preprocessor\.")

_ENCODER_BIAS = re.compile(r"(stem|stem_layer|conv[12])\.(0|conv)\.bias$")

_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_STEM = {"stem": "0", "stem_norm": "1"}
_STEM_2PLUS1D = {"stem/spatial": "0", "stem/norm": "1", "stem/temporal": "3", "stem_norm": "4"}
_BLOCK = {
    "conv1": "conv1.0",
    "conv1/spatial": "conv1.0.0",
    "conv1/norm": "conv1.0.1",
    "conv1/temporal": "conv1.0.3",
    "norm1": "conv1.1",
    "conv2": "conv2.0",
    "conv2/spatial": "conv2.0.0",
    "conv2/norm": "conv2.0.1",
    "conv2/temporal": "conv2.0.3",
    "norm2": "conv2.1",
    "gate": "fg.attn_layer.0",
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}
_HEAD = {"fuse": "feature_fuse.conv.0", "fuse_norm": "feature_fuse.conv.1", "out": "outconv.1"}


class Mapped(NamedTuple):
    """A converted tensor: name and shape in the file, and in our network."""

    source: str
    target: str
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]


class Mismatch(NamedTuple):
    """A tensor with a known name but a wrong shape; both shapes are in PyTorch's layout."""

    source: str
    found: tuple[int, ...]
    expected: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A state dict converted to parameters of our network, and everything that did not fit.

    Attributes:
        config: the network that the names and shapes describe.
        params: nested dict of float32 arrays, the tree of ``flavr.parameter_shapes(config)``
            without missing and mismatched tensors.
        mapped: the tensors in ``params``, in the tree's order.
        unmapped: names in the file for which this network has no parameter.
        missing: official names of parameters that the file does not have.
        mismatched: tensors whose shape is not that of the network's parameter.
        ignored: names of tensors that are not weights, such as BatchNorm's counters.
    """

    config: ModelConfig
    params: dict[str, Any]
    mapped: tuple[Mapped, ...]
    unmapped: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    ignored: tuple[str, ...]

    def problems(self) -> list[str]:
        """Describe each tensor that did not fit; empty if the conversion is complete."""
        return [
            *(f"`{name}` has no place in this network{_hint(name)}" for name in self.unmapped),
            *(f"`{name}` is missing{_hint(name)}" for name in self.missing),
            *(
                f"`{name}` has shape {found}, this network's is {expected}"
                for name, found, expected in self.mismatched
            ),
        ]

    def check(self) -> None:
        """Raise a ValueError that lists all problems, if there are any."""
        problems = self.problems()
        if problems:
            raise ValueError(
                f"the tensors do not fit {self.config}: {'; '.join(problems)}. Convert a complete "
                "checkpoint of the official network or of mmagic's."
            )


def recognise(tensors: Mapping[str, np.ndarray], *, join: Join | None = None) -> ModelConfig:
    """Find the settings of the FLAVR that a state dict belongs to, from its names and shapes.

    Args:
        tensors: a state dict with official or mmagic's names.
        join: how skip connections enter the decoder. Shapes distinguish concatenation from the
            others, but not ``add`` from ``none``; ``add`` is assumed unless ``none`` is given.

    Raises:
        ValueError: the tensors are not those of a FLAVR, or ``join`` contradicts their shapes.
    """
    shapes = {name: tensor.shape for name, (_, tensor) in _official(tensors).items()}
    trilinear = "decoder.1.upconv.1.weight" in shapes
    up = f"decoder.1.upconv.{int(trilinear)}.weight"
    landmarks = {"outconv.1.weight": 4, "feature_fuse.conv.0.weight": 4, up: 5}
    absent = [name for name, rank in landmarks.items() if len(shapes.get(name, ())) != rank]
    if absent:
        raise ValueError(
            f"this is no FLAVR: of its {len(shapes)} tensors ({', '.join(list(shapes)[:3])} …) "
            f"none is {' or '.join(f'`{name}` with {landmarks[name]} axes' for name in absent)}. "
            "Give a checkpoint of the official network or of mmagic's."
        )
    colours, width = shapes["outconv.1.weight"][:2]
    features = shapes["feature_fuse.conv.0.weight"][1]
    joined = shapes[up][1 if trilinear else 0]
    uncountable = 0 in (colours, width) or colours % 3 or features % width
    if uncountable or joined not in (4 * width, 8 * width):
        raise ValueError(
            f"no FLAVR has {width} channels before `outconv`, {colours} after it, {features} into "
            f"`feature_fuse` and {joined} into the first up-sampling; they are w, 3·n_outputs, "
            "n_inputs·w, and 4·w or 8·w. Give a checkpoint of the official network or of mmagic's."
        )
    concatenated = joined == 8 * width
    if join is not None and concatenated != (join == "concat"):
        raise ValueError(
            f"`join` is {join!r}, but {joined} channels enter the first up-sampling, which "
            f"{'only concatenation gives' if concatenated else 'concatenation would double'}; use "
            f"{'concat' if concatenated else 'add or none'}, or leave it out."
        )
    return ModelConfig(
        width=width,
        depth=34 if any(name.startswith("encoder.layer3.2.") for name in shapes) else 18,
        n_inputs=features // width,
        n_outputs=colours // 3,
        join=join or ("concat" if concatenated else "add"),
        upsampling="trilinear" if trilinear else "transposed",
        batch_norm=any(name.endswith(".running_mean") for name in shapes),
        encoder=_encoder(shapes),
    )


def convert(tensors: Mapping[str, np.ndarray], *, join: Join | None = None) -> Conversion:
    """Rename and transpose a state dict to our parameters, and list everything that does not fit.

    Args:
        tensors: a state dict with official or mmagic's names and PyTorch's layouts.
        join: see ``recognise``.

    Raises:
        ValueError: the tensors are not those of a FLAVR, or two names mean the same tensor. Single
            tensors that do not fit are listed in the result; ``Conversion.check`` raises for them.
    """
    config = recognise(tensors, join=join)
    official = _official(tensors)
    params: dict[tuple[str, ...], np.ndarray] = {}
    mapped, missing, mismatched = [], [], []
    leaves = traverse_util.flatten_dict(flavr.parameter_shapes(config))
    for path, leaf in cast(dict[tuple[str, ...], Any], leaves).items():
        name = _official_name(path, config)
        if name not in official:
            missing.append(name)
            continue
        source, tensor = official.pop(name)
        expected = _torch_shape(path, leaf.shape, config)
        if tensor.shape != expected:
            mismatched.append(Mismatch(source, tensor.shape, expected))
            continue
        value = _to_channels_last(path, tensor, config)
        params[path] = np.ascontiguousarray(value, dtype=np.float32)
        mapped.append(Mapped(source, "/".join(path), tensor.shape, leaf.shape))
    return Conversion(
        config=config,
        params=traverse_util.unflatten_dict(params),
        mapped=tuple(mapped),
        unmapped=tuple(source for source, _ in official.values()),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
        ignored=tuple(name for name in tensors if _IGNORED.search(name)),
    )


def _official(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """Map each official name to the name in the file and the tensor."""
    official: dict[str, tuple[str, np.ndarray]] = {}
    for source, tensor in tensors.items():
        if _IGNORED.search(source):
            continue
        name = source
        for pattern, replacement in _TO_OFFICIAL:
            name = re.sub(pattern, replacement, name)
        if name in official:
            raise ValueError(
                f"`{source}` and `{official[name][0]}` both mean `{name}`; keep one of the "
                "networks in the file."
            )
        official[name] = source, tensor
    return official


def _encoder(shapes: Mapping[str, tuple[int, ...]]) -> Literal["r3d", "mc3", "r2plus1d"]:
    if "encoder.layer1.0.conv1.0.0.weight" in shapes:
        return "r2plus1d"
    kernel = shapes.get("encoder.layer2.0.conv1.0.weight", ())
    return "mc3" if kernel[2:3] == (1,) else "r3d"


def _official_name(path: tuple[str, ...], config: ModelConfig) -> str:
    """Return the official code's name of the parameter at ``path``."""
    match path[:-1]:
        case ("encoder", stage, block, *part) if stage.startswith("layer"):
            module = f"encoder.{stage}.{block}.{_BLOCK['/'.join(part)]}"
        case ("encoder", *part):
            stem = _STEM_2PLUS1D if config.encoder == "r2plus1d" else _STEM
            module = f"encoder.stem.{stem['/'.join(part)]}"
        case ("decoder", "stages", stage, part):
            upsamples = stage in ("1", "2", "4")
            # nn.Upsample has no tensors, but takes an index in the Sequential.
            first = int(upsamples and config.upsampling == "trilinear")
            position = {
                "conv": f"{first}",
                "gate": f"{first + 1}.attn_layer.0",
                "norm": f"{first + 2}",
            }[part]
            module = f"decoder.{stage}.{'upconv' if upsamples else 'conv'}.{position}"
        case _:
            module = _HEAD["/".join(path[:-1])]
    return f"{module}.{_LEAF[path[-1]]}"


def _is_transposed(path: tuple[str, ...], config: ModelConfig) -> bool:
    kernels = [("decoder", "stages", stage, "conv", "kernel") for stage in ("1", "2", "4")]
    return config.upsampling == "transposed" and path in kernels


def _torch_shape(
    path: tuple[str, ...], shape: tuple[int, ...], config: ModelConfig
) -> tuple[int, ...]:
    """Return PyTorch's shape of the parameter whose shape in our layout is ``shape``."""
    if path[-1] != "kernel":
        return shape
    *taps, inputs, outputs = shape
    if _is_transposed(path, config):
        return (inputs, outputs, *taps)
    return (outputs, inputs, *(taps or (1, 1, 1)))  # in PyTorch a gate is a 1×1×1 convolution


def _to_channels_last(path: tuple[str, ...], tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Return a tensor in our layout: [*taps, inputs, outputs], and a gate as a matrix."""
    if path[-1] != "kernel":
        return tensor
    if path[-2] == "gate":
        return tensor.reshape(tensor.shape[:2]).T
    taps = tuple(range(2, tensor.ndim))
    if _is_transposed(path, config):
        # PyTorch's transposed convolution scatters its input; ours gathers, with a mirrored kernel.
        return np.flip(tensor, taps).transpose(*taps, 0, 1)
    return tensor.transpose(*taps, 1, 0)


def _hint(name: str) -> str:
    """Explain a surplus or missing bias of the encoder."""
    if _ENCODER_BIAS.search(name):
        return " (encoder convolutions have biases if n_outputs > 1, and only then)"
    return ""
