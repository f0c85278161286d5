# SPDX-License-Identifier: Apache-2.0
"""Forward passes of this project and of PyTorch, timed side by side on one device.

Every row is timed in the same way: from float32 frames on the device to float32 frames on the
device, waiting for each call before the next. Every output is compared with a float32 output of the
XLA implementation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flavr_jax.config import ModelConfig
from flavr_jax.inference import precompute
from flavr_jax.models import flavr, head, quantized
from flavr_jax.models.layers import Implementation
from flavr_jax.profiling.timing import CallTimes, measure
from flavr_jax.profiling.torch_peer import TorchPeer

__all__ = [
    "TORCH_MODES",
    "TYPES",
    "NetworkCase",
    "OnePrecision",
    "Program",
    "Row",
    "TorchMode",
    "compile_jax",
    "run_jax",
    "run_torch",
    "torch_stages",
]

OnePrecision: TypeAlias = Literal["fp32", "bf16", "fp16", "fp8"]

TYPES: dict[OnePrecision, Any] = {
    "fp32": jnp.float32,
    "bf16": jnp.bfloat16,
    "fp16": jnp.float16,
    "fp8": jnp.bfloat16,
}
"""Dtype of parameters and activations by precision; for fp8, of those that stay in 16 bits."""

TorchMode: TypeAlias = Literal[
    "float32",
    "float32-no-tf32",
    "autocast",
    "bfloat16",
    "float16",
    "bfloat16-compile",
    "float16-compile",
    "bfloat16-max-autotune",
    "float16-max-autotune",
]


_CALIBRATED = 64  # height and width in pixels of the crop on which fp8 scales are measured


@dataclasses.dataclass(frozen=True)
class _Mode:
    """Settings in which a PyTorch user would run the network."""

    dtype: str
    channels_last: bool = False
    autocast: bool = False
    tf32: bool = True
    compile: str | None = None


TORCH_MODES: dict[TorchMode, _Mode] = {
    "float32": _Mode("float32"),
    "float32-no-tf32": _Mode("float32", tf32=False),
    "autocast": _Mode("float32", autocast=True),
    "bfloat16": _Mode("bfloat16", True),
    "float16": _Mode("float16", True),
    "bfloat16-compile": _Mode("bfloat16", True, compile="default"),
    "float16-compile": _Mode("float16", True, compile="default"),
    "bfloat16-max-autotune": _Mode("bfloat16", True, compile="max-autotune"),
    "float16-max-autotune": _Mode("float16", True, compile="max-autotune"),
}
"""PyTorch settings by name. ``float32`` is PyTorch as shipped: its convolutions use TF32."""


class NetworkCase:
    """A network with random weights, a batch of random windows, and the expected output.

    Attributes:
        config: the network's settings.
        params: random float32 parameters.
        windows: the batch, ``[batch, n_inputs, height, width, 3]``.
        expected: output of the XLA implementation in float32; None without ``check``.
    """

    def __init__(
        self, config: ModelConfig, batch: int, height: int, width: int, *, check: bool = True
    ) -> None:
        """Draw parameters and windows, and with ``check`` compute the expected output."""
        self.config = config
        self.params = flavr.init(config, jax.random.key(0))
        shape = (batch, config.n_inputs, height, width, 3)
        self.windows = jax.random.uniform(jax.random.key(1), shape, jnp.float32)
        self.expected = self._expected_output() if check else None

    def _expected_output(self) -> np.ndarray:
        apply = functools.partial(flavr.apply, self.config, implementation="xla")
        # By default a GPU multiplies float32 in TF32, with 10 bits of precision.
        with jax.default_matmul_precision("highest"):
            return np.asarray(jax.jit(apply)(self.params, self.windows))

    def parameters(
        self, precision: OnePrecision, implementation: Implementation | None
    ) -> flavr.Parameters:
        """Return the parameters converted and packed for a precision and an implementation."""
        dtype = TYPES[precision]
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.params)
        scales = self._scales if precision == "fp8" else None
        return quantized.pack(self.config, params, scales, implementation=implementation)

    @functools.cached_property
    def _scales(self) -> dict[str, float]:
        """Scales of all feature maps, from a crop of the first window, since noise is uniform."""
        window = self.windows[:1, :, :_CALIBRATED, :_CALIBRATED]
        ranges = functools.partial(quantized.ranges, self.config, implementation="xla")
        largest = jax.jit(ranges)(self.params, window)
        return quantized.scales_for({name: float(value) for name, value in largest.items()})

    def error(self, outputs: Any) -> float | None:
        """Return the norm of the error relative to the norm of the network's own contribution.

        The contribution is the difference between the output and the base, which is the mean colour
        of the window or the blended middle frames, depending on the network. The base needs no
        prediction, so an error that is small relative to the whole image may be as large as
        everything that the network computes.
        """
        if self.expected is None:
            return None
        base = np.asarray(_base(self.config, self.windows))
        difference = np.linalg.norm((np.asarray(outputs) - self.expected).ravel())
        return float(difference / np.linalg.norm((self.expected - base).ravel()))


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: implementation and precision, or PyTorch and its settings.
        timing: times of a call.
        error: relative error, see :meth:`NetworkCase.error`; None if not checked.
        peak_bytes: memory of the program with its arguments; None if unknown.
        device: name of the device if it is another run's; "" for this process's.
    """

    name: str
    timing: CallTimes
    error: float | None
    peak_bytes: int | None = None
    device: str = ""


@dataclasses.dataclass(frozen=True)
class Program:
    """Our network compiled for a case.

    Attributes:
        name: implementation and precision.
        params: parameters in the form that the program takes, prepared before the first call.
        compiled: the compiled program, a function of parameters and windows.
    """

    name: str
    params: list[Array]
    compiled: Any


def compile_jax(
    case: NetworkCase, variants: Iterable[tuple[Implementation | None, OnePrecision]]
) -> list[Program]:
    """Compile all variants of our network concurrently.

    Raises:
        NotImplementedError: an implementation cannot run here.
    """

    def prepare(variant: tuple[Implementation | None, OnePrecision]) -> Program:
        implementation, precision = variant
        params = case.parameters(precision, implementation)
        apply = functools.partial(flavr.apply, case.config, implementation=implementation)
        halves = precompute.split(apply, params, case.windows)
        prepared = precompute.joined(jax.jit(halves.prepare)(params), params)
        compiled = jax.jit(halves.run).lower(prepared, case.windows).compile()
        return Program(f"{implementation or 'default'} {precision}", prepared, compiled)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(prepare, variants))


def run_jax(case: NetworkCase, program: Program, repeats: int) -> Row:
    """Time one compiled program."""

    def run() -> Array:
        return program.compiled(program.params, case.windows)

    memory = program.compiled.memory_analysis()  # None on some platforms
    peak = None
    if memory is not None:
        sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        peak = sum(sizes) + memory.output_size_in_bytes
    timing = measure(run, jax.block_until_ready, repeats)
    return Row(program.name, timing, case.error(run()), peak)


def run_torch(case: NetworkCase, mode: TorchMode, repeats: int, device: str = "cuda") -> Row:
    """Time PyTorch's network in one of :data:`TORCH_MODES`.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        ValueError: the PyTorch peer does not have this variant of the network.
    """
    settings = TORCH_MODES[mode]
    peer, windows, around = _prepare(case, settings, device)
    torch = peer.torch
    predict: Callable[[Any], Any] = peer
    if settings.compile is not None:
        select_algorithm: Any = importlib.import_module("torch._inductor.select_algorithm")
        # Autotuning would print pages of output for every convolution.
        select_algorithm.PRINT_AUTOTUNE = False
        predict = torch.compile(peer.__call__, mode=settings.compile)

    def run() -> Any:
        with around():
            return predict(windows)

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    timing = measure(run, wait, repeats)
    outputs = run().float().permute(0, 1, 3, 4, 2).cpu().numpy()
    return Row(f"PyTorch {mode}", timing, case.error(outputs))


def torch_stages(case: NetworkCase, mode: TorchMode, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each stage of the eager peer, measured by CUDA events."""
    peer, windows, around = _prepare(case, TORCH_MODES[mode], "cuda")
    torch = peer.torch
    times: dict[str, list[float]] = {}
    for _ in range(repeats + 3):  # the first three calls are a warm-up
        marks: list[tuple[str, Any]] = []

        def mark(stage: str, marks: list[tuple[str, Any]] = marks) -> None:
            marks.append((stage, torch.cuda.Event(enable_timing=True)))
            marks[-1][1].record()

        with around():
            mark("")
            peer(windows, mark)
        torch.cuda.synchronize()
        for (_, before), (stage, after) in itertools.pairwise(marks):
            times.setdefault(stage, []).append(before.elapsed_time(after))
    return {stage: float(np.median(values[3:])) for stage, values in times.items()}


def _prepare(
    case: NetworkCase, settings: _Mode, device: str
) -> tuple[TorchPeer, Any, Callable[[], Any]]:
    """Return the peer, its input, and the context manager to run it in."""
    peer = TorchPeer(
        case.config,
        case.params,
        device=device,
        dtype=settings.dtype,
        channels_last=settings.channels_last,
    )
    torch = peer.torch
    torch.backends.cudnn.allow_tf32 = settings.tf32
    torch.backends.cudnn.benchmark = True  # cuDNN times its algorithms, as users would let it
    windows = torch.tensor(np.asarray(case.windows), device=device).permute(0, 4, 1, 2, 3)
    windows = windows.contiguous()

    @contextlib.contextmanager
    def around() -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if settings.autocast:
                stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
            yield

    return peer, windows, around


def _base(config: ModelConfig, windows: Array) -> Array:
    """Return the image to which the network adds its output: ``[batch, 1 or n_outputs, …, 3]``."""
    if config.base == "mean":
        return flavr.mean_colour(windows)
    times = np.arange(1, config.n_outputs + 1) / config.factor
    return head.blend(windows, times)
