# SPDX-License-Identifier: Apache-2.0
"""What a visitor may choose, as arguments of ``flavr interpolate``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, TypeAlias, cast, get_args

from flavr_jax.inference.options import Options
from flavr_jax.web.limits import Refused

__all__ = ["CODECS", "FACTORS", "Choices", "Mode"]

Mode: TypeAlias = Literal["smoother", "rate", "slower"]
"""``smoother`` multiplies the frame rate, ``rate`` sets it, ``slower`` stretches the time."""

FACTORS = (2, 4, 8, 16)

CODECS = {
    "h264": ("H.264: plays everywhere with 8 bits", ".mp4"),
    "hevc": ("HEVC: smaller, keeps 10 bits", ".mp4"),
    "av1": ("AV1: smallest, slow to make", ".mp4"),
    "vp9": ("VP9 in WebM", ".webm"),
    "prores": ("ProRes, for editing", ".mov"),
    "ffv1": ("FFV1: lossless, large", ".mkv"),
}
"""Codecs by name: a description, and the container they are stored in."""

_FASTEST = 240  # frames per second


@dataclasses.dataclass(frozen=True)
class Choices:
    """What to make of a clip.

    Attributes:
        mode: what changes.
        factor: by how much, unless the frame rate is set.
        fps: frames per second; None to leave them to the factor.
        dedup: drop repeated frames.
        codec: how the result is stored.
        report: whether to look for the weakest moments.
    """

    mode: Mode = "smoother"
    factor: int = 8
    fps: Fraction | None = None
    dedup: bool = False
    codec: str = "h264"
    report: bool = True

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Choices:
        """Return the choices of a form.

        Raises:
            Refused: a value is impossible.
        """
        mode, codec = values.get("mode", cls.mode), values.get("codec", cls.codec)
        factor, rate = values.get("factor", str(cls.factor)), values.get("fps", "").strip()
        if mode not in get_args(Mode):
            raise Refused(f"`mode` is {mode!r}; it is {', '.join(get_args(Mode))}.")
        if codec not in CODECS:
            raise Refused(f"`codec` is {codec!r}; it is {', '.join(CODECS)}.")
        if factor not in map(str, FACTORS):
            raise Refused(f"`factor` is {factor!r}; it is {', '.join(map(str, FACTORS))}.")
        fps = None if mode == "smoother" or (mode == "slower" and not rate) else _rate(rate)
        flags = {name: values.get(name, "") in ("1", "on", "true") for name in ("dedup", "report")}
        return cls(cast(Mode, mode), int(factor), fps, codec=codec, **flags)

    @property
    def motion(self) -> Options:
        """The same as options of the engine."""
        factor = None if self.mode == "rate" else self.factor
        return Options(factor, self.fps, self.mode == "slower", dedup=self.dedup)

    @property
    def stretch(self) -> int:
        """Duration of the result divided by that of the clip."""
        return self.factor if self.mode == "slower" else 1

    @property
    def suffix(self) -> str:
        """Suffix of the result's name."""
        return CODECS[self.codec][1]

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``flavr interpolate``."""
        options = [] if self.mode == "rate" else ["--factor", str(self.factor)]
        options += [] if self.fps is None else ["--fps", str(self.fps)]
        flags = {
            "--slow-motion": self.mode == "slower",
            "--dedup": self.dedup,
            "--report": self.report,
        }
        options += ["--codec", self.codec, "--compare", "--browser"]
        return options + [flag for flag, wanted in flags.items() if wanted]


def _rate(text: str) -> Fraction:
    """Read frames per second."""
    # A number such as 1e999999999 would take all memory.
    known = re.fullmatch(r"\d{1,6}(\.\d{1,6})?|\d{1,6}/[1-9]\d{0,5}", text, re.ASCII)
    rate = Fraction(text) if known else Fraction(0)
    if not 1 <= rate <= _FASTEST:
        raise Refused(
            f"The frame rate is {text[:20]!r}; it goes from 1 to {_FASTEST} frames a second, such "
            "as 60 or 60000/1001."
        )
    return rate
