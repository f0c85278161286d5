# SPDX-License-Identifier: Apache-2.0
"""A loaded network that turns frames into more frames."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8, UInt16

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig, Precision
from flavr_jax.inference import stream
from flavr_jax.inference.precision import prepare
from flavr_jax.inference.windows import Boundary
from flavr_jax.models import flavr
from flavr_jax.typing import Frames
from flavr_jax.video.frames import TimedFrame

__all__ = ["DEFAULT_CHECKPOINT", "Interpolator", "load"]

DEFAULT_CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "default"
"""The bundled checkpoint, in a source tree or an editable install."""

MULTIPLE = 8  # the encoder halves sizes three times


class Interpolator:
    """A network ready for inference: compiled once a frame size, and a batch's power of two.

    Attributes:
        config: the network's settings.
        provenance: where the parameters came from.
        boundary: how frames beyond a clip's ends are made up.
        precision: what it computes in, never ``auto``.
        runs_on: the device and the precision in words, with the reason where ``auto`` chose.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: flavr.Parameters,
        *,
        precision: Precision = "auto",
        scales: Mapping[str, float] | None = None,
        provenance: dict | None = None,
        boundary: Boundary = "mirror",
    ) -> None:
        """Pack the parameters; see :func:`flavr_jax.inference.precision.prepare`."""
        self.config = config
        self.provenance = provenance or {}
        self.boundary: Boundary = boundary
        prepared = prepare(config, params, precision, scales)
        self.precision, self.runs_on = prepared.precision, str(prepared)
        self._params = prepared.params

    @property
    def factor(self) -> int:
        """The largest factor made in one pass: ``n_outputs + 1``."""
        return self.config.factor

    def passes(self, factor: int) -> list[int]:
        """The factors, each made in one pass, whose product is ``factor``; largest first.

        Raises:
            ValueError: ``factor`` is no such product; the message names factors that are.
        """
        single = [k for k in range(self.factor, 1, -1) if self.factor % k == 0]
        passes, left = [], factor
        while left > 1:
            step = next((k for k in single if left % k == 0), None)
            if step is None:
                break
            passes.append(step)
            left //= step
        if factor < 1 or left > 1:
            works = sorted({a * b for a in (1, *single) for b in (1, *single)} - {1})
            raise ValueError(
                f"`factor` is {factor}, but this network predicts {self.config.n_outputs} frames "
                f"an interval (factor {self.factor}); use {', '.join(map(str, works))} or a "
                "product of these."
            )
        return passes

    def check_factor(self, factor: int) -> None:
        """Raises a ValueError where ``factor`` cannot be made; see :meth:`passes`."""
        self.passes(factor)

    def predict(
        self, windows: Float[Array | np.ndarray, "batch time height width 3"]
    ) -> Float[Array, "batch n_outputs height width 3"]:
        """The network's raw output, float32 and not clipped, for any height and width.

        Frames are padded to multiples of 8 by repeating border pixels, and cropped back.

        Args:
            windows: float32 RGB in [0, 1], ``config.n_inputs`` consecutive frames a sample.

        Returns:
            ``config.n_outputs`` frames a sample, at the times k / (n_outputs + 1) of the middle
            interval.
        """
        batch = windows.shape[0]
        rows = jnp.asarray(windows, jnp.float32)
        rows = jnp.pad(rows, ((0, _bucket(batch) - batch), *((0, 0),) * 4))
        return _predict(self.config, self._params, rows)[:batch]

    def between(
        self, frames: Frames, factor: int
    ) -> (
        UInt8[Array, "intervals between height width _channel"]
        | UInt16[Array, "intervals between height width _channel"]
    ):
        """The frames inside every interval of ``frames`` that has its full context.

        ``n_inputs`` frames make one interval, each further frame one more. The result is on the
        device and may still be in computation. It has the type and the channels of ``frames``:
        alpha goes through the network too, as a grey clip, unless it is opaque throughout.

        Args:
            frames: consecutive frames with context: ``intervals + n_inputs − 1`` of them.
            factor: one of :meth:`passes`; ``factor − 1`` frames are made an interval.
        """
        intervals = frames.shape[0] - self.config.n_inputs + 1
        missing = _bucket(intervals) - intervals
        rows = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        made = _between(self.config, self._params, rows[..., :3], factor)
        if rows.shape[-1] == 4:
            opaque = rows[..., 3].min() == np.iinfo(rows.dtype).max
            if opaque:
                alpha = jnp.full_like(made[..., :1], np.iinfo(rows.dtype).max)
            else:
                grey = np.repeat(rows[..., 3:], 3, axis=-1)
                alpha = _between(self.config, self._params, grey, factor)[..., 1:2]
            made = jnp.concatenate([made, alpha], axis=-1)
        return made[:intervals]

    def __call__(self, frames: Frames, factor: int) -> Frames:
        """``(n − 1) · factor + 1`` frames for n; the given ones are passed through unchanged.

        Holds the whole clip; :func:`flavr_jax.inference.stream.interpolate` does not.

        Raises:
            ValueError: for a factor that cannot be made, or frames of another shape or type.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"`frames` is {frames.dtype}{list(frames.shape)}; "
                "pass uint8 [n, height, width, 3] with n ≥ 1."
            )
        self.check_factor(factor)
        timed = (TimedFrame(one, Fraction(n), Fraction(1)) for n, one in enumerate(frames))
        options = stream.Options(factor, cut="ignore")
        return np.stack([made.pixels for made in stream.interpolate(timed, self, options)])


def load(path: str | Path | None = None, *, precision: Precision = "auto") -> Interpolator:
    """An interpolator from a checkpoint directory; None loads the bundled one.

    Compiled programs are kept between runs in JAX's compilation cache: in the directory that
    ``JAX_COMPILATION_CACHE_DIR`` names, else under ``~/.cache/flavr_jax``.

    Args:
        path: a directory written by :func:`flavr_jax.checkpoint.save`.
        precision: what the network computes in; ``auto`` is fp8 on a Hopper GPU where the
            checkpoint was calibrated for it, else bf16 on a GPU and fp32 on a CPU.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is no checkpoint, a damaged one, or has no scales and fp8 was asked for.
    """
    _keep_compiled_programs()
    stored = checkpoint.load(DEFAULT_CHECKPOINT if path is None else path)
    return Interpolator(
        stored.config,
        stored.params,
        precision=precision,
        scales=stored.quantization.scales if stored.quantization else None,
        provenance=stored.provenance,
    )


@functools.partial(jax.jit, static_argnums=0)
def _predict(config: ModelConfig, params: flavr.Parameters, windows: Array) -> Array:
    height, width = windows.shape[2:4]
    padding = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
    padded = jnp.pad(windows, ((0, 0), (0, 0), *padding, (0, 0)), mode="edge")
    return flavr.apply(config, params, padded)[:, :, :height, :width]


@functools.partial(jax.jit, static_argnums=(0, 3))
def _between(config: ModelConfig, params: flavr.Parameters, frames: Array, factor: int) -> Array:
    count = frames.shape[0] - config.n_inputs + 1
    most = jnp.iinfo(frames.dtype).max
    scaled = frames.astype(jnp.float32) / most
    windows = jnp.stack([scaled[t : t + count] for t in range(config.n_inputs)], axis=1)
    step = config.factor // factor
    outputs = _predict(config, params, windows)[:, step - 1 :: step]
    return jnp.rint(jnp.clip(outputs, 0, 1) * most).astype(frames.dtype)


def _bucket(count: int) -> int:
    """The power of two that a batch is padded to, so that few sizes are ever compiled."""
    return 1 << (count - 1).bit_length()


def _keep_compiled_programs() -> None:
    """Points JAX's compilation cache at a folder of ours unless the user chose one."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "flavr_jax" / "compiled"))
