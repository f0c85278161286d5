# SPDX-License-Identifier: Apache-2.0
"""Settings as frozen dataclasses, and a strict constructor for them.

:func:`build` makes a dataclass from a TOML recipe or from a checkpoint's metadata. An unknown key
or a value of the wrong type is an error that lists what is allowed, so that a typo cannot train the
wrong model.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

__all__ = ["Cut", "LookConfig", "ModelConfig", "Precision", "build", "read_toml"]

Settings = TypeVar("Settings")

Precision: TypeAlias = Literal["auto", "fp8", "int8", "bf16", "fp16", "fp32"]
"""Number format of the computation; ``auto`` is the fastest that device and checkpoint support."""

Cut: TypeAlias = Literal["hold", "blend", "ignore"]
"""Frames to show between the two frames at a cut.

``hold`` shows the nearer of the two, ``blend`` mixes them, ``ignore`` does not look for cuts.
"""


@dataclasses.dataclass(frozen=True)
class LookConfig:
    """A small network that corrects the flow; see :class:`flavr_jax.models.look.Look`.

    Attributes:
        scale: it sees the frames, warped by the flow so far, this many times smaller.
        channels: channels of its convolutions.
        layers: number of hidden convolutions.
    """

    scale: int
    channels: int
    layers: int = 3

    def __post_init__(self) -> None:
        if self.scale < 1 or self.channels < 1 or self.layers < 0:
            raise ValueError(
                f"`looks` has scale {self.scale}, {self.channels} channels and {self.layers} "
                "layers; scales and channels are at least 1, layers at least 0."
            )

    def folded(self, trunk_scale: int) -> int:
        """Side of the square of pixels that its convolutions take as one position.

        Of frames that are larger than the trunk's, so many pixels are one position of the trunk.
        """
        return max(1, trunk_scale // self.scale)

    def times_smaller(self, trunk_scale: int) -> int:
        """Ratio of the height of the trunk's frames to the rows of its positions."""
        return self.scale * self.folded(trunk_scale) // trunk_scale


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a FLAVR network; the defaults are the paper's 2× model.

    Attributes:
        width: base number of channels (the stem's); deeper stages have 2, 4 and 8 times as many.
        depth: 18 or 34 layers, as ResNets are named: 2-2-2-2 or 3-4-6-3 residual blocks.
        n_inputs: frames in a window, at least 2; the predicted interval is the middle one.
        n_outputs: frames predicted inside the middle interval, evenly spaced: 1, 3 and 7 give
            2×, 4× and 8× the frame rate.
        join: how skip connections enter the decoder: concatenated, added, or not at all.
        upsampling: transposed 3×4×4 convolution, or trilinear resizing and a 1×1×1 convolution.
        batch_norm: batch normalisation after each convolution (off in every released model).
        encoder: 3-D convolutions throughout (``r3d``), factorised into space and time
            (``r2plus1d``), or 3-D in the first stage and 2-D after it (``mc3``);
            Tran et al. 2018, https://arxiv.org/abs/1711.11248.
        decoder_widths: channels of the decoder's five stages, in multiples of ``width``.
        base: image that the network's output is added to: the mean colour of the window (``mean``,
            as in the paper), the two middle frames blended by time (``blend``), or the two middle
            frames warped by predicted flow and blended, a departure from the paper (``warp``; see
            :mod:`flavr_jax.models.head`).
        trunk_scale: the 3-D U-Net (the trunk) runs on frames this many times smaller, and its
            output is enlarged. Only ``base = "warp"`` keeps fine detail then, since it warps the
            frames at full size.
        looks: networks that correct the flow of ``base = "warp"``, in this order. Coarse ones
            first: far motion is a few pixels there.
        flow_pairs: pairs of flows, into the frame before and the frame after, that a pixel of
            ``base = "warp"`` is mixed from. The last look predicts all but the first pair.
        keep_still: captions and displays over a moving background, and pictures in which nothing
            moves, are kept as they are; needs ``base = "warp"`` (see
            :func:`flavr_jax.models.still.standing`).
        look_up: how ``base = "warp"`` interpolates between the pixels of the frames it mixes;
            ``cubic`` blurs less and takes longer.
    """

    width: int = 64
    depth: Literal[18, 34] = 18
    n_inputs: int = 4
    n_outputs: int = 1
    join: Literal["concat", "add", "none"] = "concat"
    upsampling: Literal["transposed", "trilinear"] = "transposed"
    batch_norm: bool = False
    encoder: Literal["r3d", "r2plus1d", "mc3"] = "r3d"
    decoder_widths: tuple[int, ...] = (4, 2, 1, 1, 1)
    base: Literal["mean", "blend", "warp"] = "mean"
    trunk_scale: Literal[1, 2, 3, 4] = 1
    looks: tuple[LookConfig, ...] = ()
    flow_pairs: int = 1
    keep_still: bool = False
    look_up: Literal["bilinear", "cubic"] = "bilinear"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}; it counts channels, so it is at least 1.")
        if self.n_inputs < 2:
            raise ValueError(
                f"`n_inputs` is {self.n_inputs}; interpolation needs a frame on either side, "
                "so it is at least 2."
            )
        if self.n_outputs < 1:
            raise ValueError(f"`n_outputs` is {self.n_outputs}; a network predicts at least 1.")
        decoder = list(self.decoder_widths)
        if len(decoder) != 5 or min(decoder) < 1 or decoder[-1] != 1:
            raise ValueError(
                f"`decoder_widths` is {decoder}; the decoder has five stages, each of at least 1 × "
                "`width` channels and the last of just that, as in [4, 2, 1, 1, 1]."
            )
        if self.join == "add" and decoder != [4, 2, 1, 1, 1]:
            raise ValueError(
                f"`decoder_widths` is {decoder}, but `join = 'add'` needs as many channels as the "
                "encoder's features have; use [4, 2, 1, 1, 1], or `join = 'concat'`."
            )
        if self.base != "mean" and self.n_inputs % 2:
            raise ValueError(
                f"`n_inputs` is {self.n_inputs}, but `base = {self.base!r}` mixes the two middle "
                "frames; use an even number of inputs or `base = 'mean'`."
            )
        scales = [look.scale for look in self.looks]
        if self.looks and self.base != "warp":
            raise ValueError(
                f"`looks` has the scales {scales}, but only `base = 'warp'` has looks; use [], or "
                "that base."
            )
        if self.flow_pairs < 1 or (self.flow_pairs > 1 and not self.looks):
            raise ValueError(
                f"`flow_pairs` is {self.flow_pairs}; it is at least 1, and more than 1 only with "
                "`looks`, because the last look predicts the other pairs."
            )
        if self.keep_still and self.base != "warp":
            raise ValueError(
                f"`keep_still` is true, but `base` is {self.base!r}; use `base = 'warp'`, or leave "
                "`keep_still` out."
            )
        if self.look_up != "bilinear" and self.base != "warp":
            raise ValueError(
                f"`look_up` is {self.look_up!r}, but `base` is {self.base!r}, which looks nothing "
                "up; use `base = 'warp'`, or leave `look_up` out."
            )
        # The trunk's frames have multiples of 8 pixels, so its maps can be reduced up to 8 times.
        known = [n for n in range(1, self.trunk_scale) if self.trunk_scale % n == 0]
        known += [self.trunk_scale * n for n in (1, 2, 4, 8)]
        if not set(scales) <= set(known):
            raise ValueError(
                f"`looks` has the scales {scales}; with `trunk_scale = {self.trunk_scale}`, each "
                f"is one of {known}."
            )

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Residual blocks of the four encoder stages."""
        return {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[self.depth]

    @property
    def factor(self) -> int:
        """Ratio of output to input frame rate when every predicted frame is used."""
        return self.n_outputs + 1

    @property
    def multiple(self) -> int:
        """Heights and widths of frames must be multiples of this many pixels."""
        return 8 * self.trunk_scale

    @property
    def encoder_bias(self) -> bool:
        """True if encoder convolutions have a bias, as in the official 4× and 8× models.

        Factorised convolutions never have one, as in the official code.
        """
        return self.n_outputs > 1 and self.encoder != "r2plus1d"


def build(cls: type[Settings], values: Mapping[str, Any], *, where: str = "") -> Settings:
    """Build a settings dataclass from a mapping, with strict checks of keys and types.

    Nested mappings become nested dataclasses; missing keys keep their defaults.

    Args:
        cls: a dataclass type.
        values: field names and plain values, as TOML or JSON gives them.
        where: source of the values, for messages (``"configs/default.toml: model"``).

    Raises:
        ValueError: a key is unknown or a value has the wrong type; the message says what is
            allowed.
    """
    prefix = f"{where}: " if where else ""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"{prefix}unknown key {', '.join(map(repr, unknown))} for {cls.__name__}; "
            f"known keys are {', '.join(hints)}."
        )
    fields = {
        name: _convert(value, hints[name], f"{prefix}`{name}`") for name, value in values.items()
    }
    return cls(**fields)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ValueError: it is not valid TOML, or is nested too deeply; the message names the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError as well
        raise ValueError(f"{path} is not valid TOML: {error}.") from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Convert ``value`` to ``kind``, or raise a ValueError that says what ``where`` accepts."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; a table of {kind.__name__} goes there.")
        return build(kind, value, where=where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}; choose one of {arguments}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}; a list goes there.")
        item = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(
                f"{where} has {len(value)} values, {list(value)}; {len(arguments)} go there."
            )
        return tuple(_convert(entry, item, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; a table goes there.")
        return dict(value)
    if arguments:  # a union such as `str | None`
        for option in arguments:
            try:
                return _convert(value, option, where)
            except ValueError:
                if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                    raise  # only a dataclass takes a table, so its message is the helpful one
        raise ValueError(f"{where} is {value!r}; {kind} goes there.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:  # `isinstance` would take True for an int
        name = getattr(kind, "__name__", kind)
        raise ValueError(f"{where} is {value!r}; a value of type {name} goes there.")
    return value
