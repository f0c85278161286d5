# SPDX-License-Identifier: Apache-2.0
"""A loaded network that interpolates frames."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from flavr_jax import checkpoint, program_cache
from flavr_jax.bundled import DEFAULT_CHECKPOINT
from flavr_jax.config import ModelConfig, Precision
from flavr_jax.inference import devices, planner, programs, stream, tiles
from flavr_jax.inference.computation import Computation
from flavr_jax.inference.devices import Device, Replicas
from flavr_jax.inference.options import Resources, bytes_of
from flavr_jax.inference.planner import Plan
from flavr_jax.inference.precision import prepare
from flavr_jax.inference.programs import Programs
from flavr_jax.inference.tiles import Tiling
from flavr_jax.inference.windows import Boundary
from flavr_jax.models import flavr
from flavr_jax.typing import Frame, Frames
from flavr_jax.video.frames import Picture, TimedFrame
from flavr_jax.video.pixels.picture import Resident, resident

__all__ = ["DEFAULT_CHECKPOINT", "Interpolator", "load"]

logger = logging.getLogger(__name__)


class Interpolator:
    """A network ready for inference.

    It is compiled once for each frame size and batch size; batches are padded to powers of two.

    Attributes:
        config: the network's settings.
        provenance: where the parameters came from.
        boundary: how frames beyond a clip's ends are synthesised.
        precision: what it computes in, never ``auto``.
        runs_on: a text with the device and the precision; it adds why ``auto`` chose the precision,
            or a warning if it is slow on this device.
        on_compile: called before :meth:`between` compiles a program, with the frames' width and
            height and, if known, the usual number of seconds.
        tiling: how :meth:`between` divides a window; :mod:`flavr_jax.inference.planner` chooses it
            to keep within a limit of memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: flavr.Parameters,
        *,
        precision: Precision = "auto",
        scales: Mapping[str, float] | None = None,
        provenance: dict | None = None,
        boundary: Boundary = "duplicate",
        keep_programs: bool = False,
    ) -> None:
        """Prepare the parameters as :func:`flavr_jax.inference.precision.prepare` does.

        With ``keep_programs``, compiled programs are kept between runs as
        :func:`flavr_jax.program_cache.compiled` does.
        """
        self.config = config
        self.provenance = provenance or {}
        self.boundary: Boundary = boundary
        prepared = prepare(config, params, precision, scales, remember=keep_programs)
        self.precision: Precision = prepared.precision
        self.runs_on = str(prepared)
        self.tiling = tiles.WHOLE
        self.on_compile: Callable[[int, int, float | None], None] | None = None
        self._remedy = threading.Lock()  # a lack of memory may show in the threads of all devices
        self._most: int | None = None  # intervals at a time, once the device ran out of memory
        self._replicas = Replicas(prepared.params)
        self._programs = Programs(config, keep_programs, self._tell)

    def fit(
        self,
        height: int,
        width: int,
        factor: int,
        resources: Resources,
        batch: int | None = None,
    ) -> Plan:
        """Prepare for frames of a size: choose the devices, the batch, and how to divide windows.

        Args:
            height: height of the frames in pixels.
            width: width of the frames in pixels.
            factor: the largest factor of one pass.
            resources: memory and devices to use.
            batch: intervals at a time; None to choose.

        Raises:
            ValueError: the frames do not fit into the memory, or there are fewer devices.
        """
        self.use(devices.choose(resources.devices))
        limit = None
        if resources.memory_limit is not None:
            # The planner's model of memory leaves the parameters out.
            held = sum(leaf.nbytes for leaf in jax.tree.leaves(self._params))
            limit = bytes_of(resources.memory_limit) - held
        plan = planner.plan(
            self.config,
            self.precision,
            height,
            width,
            factor,
            limit=limit,
            tiles=resources.tiles,
            batch=batch,
        )
        self.tiling, self._most = plan.tiling, None
        return plan

    def use(self, chosen: Sequence[Device]) -> None:
        """Compute groups of intervals on these devices in turn; the frames stay the same.

        Each device holds a copy of the parameters.
        """
        if chosen != [jax.local_devices()[0]]:
            self._replicas = Replicas(self._params, chosen)

    def _tell(self, width: int, height: int, seconds: float | None) -> None:
        if self.on_compile is not None:
            self.on_compile(width, height, seconds)

    @property
    def concurrency(self) -> int:
        """Number of devices that compute at the same time."""
        return len(self._replicas)

    @property
    def ahead(self) -> int:
        """Number of computations that the devices run or queue while an earlier one is encoded.

        A GPU computes one and has the next in its queue, or it would be idle from time to time. A
        CPU would compute both at once, and hold the memory of both.
        """
        return 2 * self.concurrency - (jax.default_backend() == "cpu")

    @property
    def _params(self) -> flavr.Parameters:
        return self._replicas.first

    @property
    def factor(self) -> int:
        """Largest factor that one pass can make: ``n_outputs + 1``."""
        return self.config.factor

    def passes(self, factor: int) -> list[int]:
        """Split ``factor`` into factors that one pass each can make, the largest first.

        Raises:
            ValueError: it is not a product of such factors; the message names some that work.
        """
        # One pass can make any divisor of the network's factor, by leaving frames out.
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
                f"per interval (factor {self.factor}); use {', '.join(map(str, works))} or a "
                "product of these."
            )
        return passes

    def check_factor(self, factor: int) -> None:
        """Raise a ValueError if ``factor`` cannot be made; see :meth:`passes`."""
        self.passes(factor)

    def predict(
        self, windows: Float[Array | np.ndarray, "batch time height width 3"]
    ) -> Float[Array, "batch n_outputs height width 3"]:
        """Return the network's raw output, float32 and not clipped, for any height and width.

        Frames are padded to multiples of ``config.multiple`` by repeating border pixels, and the
        output is cropped back. NaN and infinity are returned; only :meth:`between` raises an error.

        Args:
            windows: float32 RGB in [0, 1], ``config.n_inputs`` consecutive frames per sample.

        Returns:
            ``config.n_outputs`` frames per sample, at the times k / (n_outputs + 1) of the middle
            interval.
        """
        batch = windows.shape[0]
        rows = jnp.asarray(windows, jnp.float32)
        # Every batch size needs its own compiled program, so use few sizes.
        rows = jnp.pad(rows, ((0, programs.bucket(batch) - batch), *((0, 0),) * 4))
        return programs.predict(self.config, self._params, rows)[:batch]

    def upload(self, picture: Frame | Picture, device: int | None = None) -> Resident:
        """Put a frame on a device, by default the next one, as :meth:`between` takes it."""
        with self._replicas.here(device):
            return resident(picture)

    def between(
        self,
        frames: Frames | Sequence[Resident],
        factor: int,
        batch: int = 1,
        device: int | None = None,
    ) -> Computation:
        """Compute the frames inside every interval of ``frames`` that has its full context.

        ``n_inputs`` frames give one interval, and each further frame gives one more. The result has
        the type and the channels of ``frames``. Alpha goes through the network separately, as a
        grey clip, unless all of it is opaque.

        Args:
            frames: consecutive frames with context: ``intervals + n_inputs − 1`` of them, on the
                host or from :meth:`upload`.
            factor: one of :meth:`passes`; ``factor − 1`` frames are made per interval.
            batch: number of intervals at a time that a program is compiled for in any case. It
                computes fewer as well, so that no other has to be compiled for them.
            device: number of the device that computes; None to take turns.

        Returns:
            The frames, possibly still being computed: ``numpy.asarray`` waits for them, and raises
            a :class:`NonFiniteError` if the network predicted NaN or infinity. If the device runs
            out of memory, batches become smaller, then windows are divided; a warning says so.

        Raises:
            MemoryError: a window does not fit into the device's memory, however it is divided.
        """
        if isinstance(frames, np.ndarray):
            frames = [self.upload(frame, device) for frame in frames]
        used = self._most, self.tiling
        try:
            made = self._start(frames, factor, batch, device)
            # Sent ahead of any frames, behind which a later request would have to wait.
            made.finite.copy_to_host_async()
        except jax.errors.JaxRuntimeError as error:
            return self._again(frames, factor, batch, device, used, error)
        # A program is only queued here, so a lack of memory may show when its frames are fetched.
        again = functools.partial(self._again, frames, factor, batch, device, used)
        return dataclasses.replace(made, again=again)

    def _again(
        self,
        frames: Sequence[Resident],
        factor: int,
        batch: int,
        device: int | None,
        used: tuple[int | None, Tiling],
        error: Exception,
    ) -> Computation:
        """Compute what failed for lack of memory, with less memory than it ``used``."""
        if not planner.is_out_of_memory(error):
            raise error
        # Other computations that were on their way fail as well; the first one has the remedy.
        with self._remedy:
            if used == (self._most, self.tiling):
                intervals = max(batch, len(frames) - self.config.n_inputs + 1)
                self._use_less_memory(intervals, frames[0], factor)
        return self.between(frames, factor, batch, device)

    def _use_less_memory(self, intervals: int, frame: Resident, factor: int) -> None:
        """Halve the batch; if it is 1, divide windows further."""
        height, width = frame.pixels.shape[:2]
        used = min(intervals, self._most or intervals)
        if used > 1:
            self._most = programs.bucket(used) // 2
            remedy = f"batches of {self._most}"
        else:
            less = planner.smaller(self.config, self.precision, height, width, factor, self.tiling)
            if less is None:
                raise MemoryError(f"{width}×{height} pixels do not fit into that of the device")
            self.tiling = less
            remedy = str(less)
        logger.warning("The device ran out of memory; going on with %s.", remedy)

    def _start(
        self, frames: Sequence[Resident], factor: int, batch: int, device: int | None
    ) -> Computation:
        """Start a computation, in several parts if it has more intervals than fit at a time."""
        intervals = len(frames) - self.config.n_inputs + 1
        most = self._most
        if most is not None and intervals > most:
            last = self.config.n_inputs - 1
            parts = [
                self._start(frames[start : start + most + last], factor, most, device)
                for start in range(0, intervals, most)
            ]
            # Parts are computed on different devices in turn, and JAX concatenates only on one.
            where = parts[0].finite.sharding
            made, finite = jax.device_put(
                (
                    [part.frames[: part.count] for part in parts],
                    [part.finite[: part.count] for part in parts],
                ),
                where,
            )
            opaque = all(part.opaque for part in parts)
            return Computation(
                jnp.concatenate(made), jnp.concatenate(finite), self.precision, opaque
            )
        planned = max(intervals, batch if most is None else min(batch, most))
        missing = programs.bucket(planned) - intervals
        opaque = all(frame.opaque for frame in frames)
        # Copies of the last frame fill up the batch; the frames of their intervals are never read.
        rows = tuple(frame.pixels for frame in [*frames, *[frames[-1]] * missing])
        params, rows = self._replicas.take(rows, device)
        made, finite = self._programs(params, rows, factor, self.tiling)
        if rows[0].shape[-1] == 4:
            # Alpha that is opaque throughout would stay so: save the second pass.
            if opaque:
                alpha = jnp.full_like(made[..., :1], jnp.iinfo(made.dtype).max)
            else:
                alpha, alpha_finite = self._programs(params, rows, factor, self.tiling, alpha=True)
                # The three predicted channels of a grey clip are nearly equal; take green.
                alpha, finite = alpha[..., 1:2], finite & alpha_finite
            made = jnp.concatenate([made, alpha], axis=-1)
        return Computation(made, finite, self.precision, opaque, intervals)

    def __call__(self, frames: Frames, factor: int) -> Frames:
        """Interpolate n frames to ``(n − 1) · factor + 1``; the originals are kept unchanged.

        The whole clip is in memory; :func:`flavr_jax.inference.stream.interpolate` streams instead.

        Args:
            frames: uint8 RGB, ``[n, height, width, 3]``.
            factor: factor by which the frame rate is multiplied; see :meth:`passes`.

        Raises:
            ValueError: the factor cannot be made, or the frames have another shape or type.
            NonFiniteError: the network predicted NaN or infinity.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(
                f"`frames` is {frames.dtype}{list(frames.shape)}; "
                "pass uint8 [n, height, width, 3] with n ≥ 1."
            )
        self.check_factor(factor)
        timed = (TimedFrame(one, Fraction(n), Fraction(1)) for n, one in enumerate(frames))
        options = stream.Options(factor, cut="ignore")
        made = stream.fetched(stream.interpolate(timed, self, options))
        return np.stack([frame.pixels for frame in made])


def load(path: str | Path | None = None, *, precision: Precision = "auto") -> Interpolator:
    """Load an interpolator from a checkpoint directory; None loads the bundled checkpoint.

    JAX's compilation cache keeps compiled programs between runs, in the directory
    ``JAX_COMPILATION_CACHE_DIR`` if that is set, else under ``~/.cache/flavr_jax``.

    Args:
        path: a directory written by :func:`flavr_jax.checkpoint.save`.
        precision: what the network computes in. ``auto`` is fp8 on a Hopper GPU if the checkpoint
            was calibrated for it, bf16 on any other GPU, and on a CPU int8 where that is fast, or
            fp32.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is not a checkpoint, or is damaged; its weights are NaN, infinite or too
            large for the precision; or fp8 was requested and it has no scales.
    """
    program_cache.enable()
    stored = checkpoint.load(DEFAULT_CHECKPOINT if path is None else path)
    return Interpolator(
        stored.config,
        stored.params,
        precision=precision,
        scales=stored.quantization.scales if stored.quantization else None,
        provenance=stored.provenance,
        keep_programs=True,
    )
