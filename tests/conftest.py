# SPDX-License-Identifier: Apache-2.0
import functools
import gc
import json
import logging
import os
import tempfile
import threading
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from jaxlib import version

# Tests compile much and compute little: LLVM's optimisations would cost more than they save, and
# the emitters that only older versions of XLA still have compile 3 times faster.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    + ["--xla_cpu_use_fusion_emitters=false"] * (version.__version_info__ < (0, 11))
)
# Compiled programs of a test run stay out of the user's cache; set before jax is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "flavr_jax_test_cache")
)

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

from tests import type_checks

type_checks.install()  # before anything that is checked is imported

# Durations of compilations since memory maps were counted.
_compiled: list[float] = []


def _count(event: str, seconds: float, **_: object) -> None:
    if event.endswith("/backend_compile_duration"):
        _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_count)

# JAX lowers each program in a new MLIR context. Making one takes 3 ms, a fifth of the time of a
# small program. A context keeps its constants, so it is replaced now and then.
_new_context = mlir.make_ir_context
_contexts = threading.local()


def _shared_context() -> object:
    uses = getattr(_contexts, "uses", 0)
    if uses % 200 == 0:
        _contexts.shared = _new_context()
    _contexts.uses = uses + 1
    return _contexts.shared


mlir.make_ir_context = _shared_context

# JAX keeps programs that were traced under different values of this context apart.
_by_definition = jax.make_user_context(default_value=False)


# Long, and they hardly depend on the versions of Python and JAX: .ci/run runs them with one Python.
ONCE = (
    "tests/bandwidth",
    "tests/commands/test_pipe_commands.py",
    "tests/commands/test_render.py",
    "tests/data/synthetic",
    "tests/examples",
    "tests/farm",
    "tests/profiling",
    "tests/render",
    "tests/scripts/test_fuzz.py",
    "tests/test_export.py",
    "tests/test_onnx_writer.py",
    "tests/web",
)


# Files that take longer than others, the longest first. They begin first, so that no worker is busy
# long after the others.
LONG = (
    "tests/examples/test_notebook.py",
    "tests/models/test_formulation.py",
    "tests/scripts/test_fuzz.py",
    "tests/farm/test_farm.py",
    "tests/models/test_on_hopper.py",
    "tests/commands/test_interpolate_runs.py",
    "tests/render/test_tracer.py",
    "tests/inference/test_precision.py",
    "tests/inference/test_tiles.py",
    "tests/test_default_checkpoint.py",
    "tests/test_export.py",
    "tests/models/test_head.py",
    "tests/data/synthetic/test_rendered.py",
    "tests/quantization/test_calibration.py",
    "tests/profiling/test_comparison.py",
    "tests/training/test_magnification_task.py",
    "tests/training/test_parallel.py",
    "tests/training/test_classification.py",
    "tests/training/test_step_on_hopper.py",
    "tests/commands/test_benchmark.py",
)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    listed = tomllib.loads((Path(__file__).parent / "quick.toml").read_text())
    quick = {entry for rooms in listed.values() for entries in rooms.values() for entry in entries}
    for item in items:
        path, _, test = item.nodeid.split("[")[0].partition("::")
        names = {f"{path}::{test}", path, *map(str, PurePosixPath(path).parents)}
        if not quick.isdisjoint(names):
            item.add_marker("quick")
        if not names.isdisjoint(ONCE):
            item.add_marker("once")
    rank = {path: position for position, path in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
    if jax.default_backend() == "gpu":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def definition() -> Iterator[None]:
    """Run networks by the definition of their operations, in tests of what is built on a network.

    XLA compiles it 6 times faster than the formulation that a CPU runs otherwise. tests/models and
    tests/pallas_kernels compare the two.
    """
    from pallas_kernels.conv3d import xla
    from pallas_kernels.core import dispatch

    fastest = dispatch.call

    def call(operation, implementations, name, arguments):
        candidate = implementations["reference"]
        # Quantised kernels have no definition.
        if name is None and not (candidate.why_not and candidate.why_not(arguments)):
            name = "reference"
        return fastest(operation, implementations, name, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "call", call)
        patch.setattr(xla, "pack_kernel", lambda kernel, frames: kernel)
        _by_definition.set_global(True)
        yield
        _by_definition.set_global(False)


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Networks with one residual block a stage, for tests that ask nothing of a network's layers.

    They compile twice as fast. Processes that a test starts have networks of the usual depth.
    """
    from flavr_jax.config import ModelConfig
    from flavr_jax.models import classifier, flavr, magnifier, quantized

    # The keys of these caches are configurations, which are equal in spite of the patch.
    kept = flavr._skeleton, classifier._skeleton, magnifier._skeleton, quantized.convolutions

    def forget() -> None:
        for each in kept:
            each.cache_clear()

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "blocks", (1, 1, 1, 1))
        yield
    forget()


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a checkpoint of a small, untrained network with so many outputs; returns its path."""
    from flavr_jax import checkpoint
    from flavr_jax.config import ModelConfig
    from flavr_jax.models import flavr

    def write(n_outputs: int) -> Path:
        path = tmp_path_factory.mktemp("network") / f"tiny_{n_outputs + 1}x"
        config = ModelConfig(width=4, n_outputs=n_outputs)
        random = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: random.normal(0, 0.05, leaf.shape).astype(np.float32),
            flavr.parameter_shapes(config),
        )
        checkpoint.save(path, config, params, provenance={"source": "random, for a test"})
        return path

    return write


@pytest.fixture(scope="session")
def tiny_2x(untrained: Callable[[int], Path]) -> Path:
    """A checkpoint of a network that is small and untrained, for programs that need one."""
    return untrained(1)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forget compiled programs before they need more memory maps than Linux gives a process.

    A program takes 3 to 12 of the 65,530. If none is left, the compiler crashes.
    """
    yield
    if len(_compiled) > 300:  # counting maps takes 40 ms
        _compiled.clear()
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
            jax.clear_caches()


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Take away what a program that runs inside a test adds to the log, which lasts otherwise."""
    root, package = logging.getLogger(), logging.getLogger("flavr_jax")
    levels, before = (root.level, package.level), root.handlers[:]
    yield
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:  # pytest's own stay
            root.removeHandler(handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    # What is imported by now stays. Python's garbage collector would look through all of it again
    # and again, for an eighth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the official code; README.md there says how they were made."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_shapes(golden: Path) -> Callable[[str], dict[str, tuple[int, ...]]]:
    """Names and shapes of a golden case's state dict."""

    def shapes(case: str) -> dict[str, tuple[int, ...]]:
        keys = json.loads((golden / f"{case}.keys.json").read_text())
        return {name: tuple(shape) for name, shape in keys.items()}

    return shapes


@pytest.fixture(scope="module")
def golden_tensor() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """The tensor that belongs to a name, by the rule of golden/README.md."""

    @functools.cache  # networks share most tensors
    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(
            shape
        )
        if name.endswith(".running_var"):
            values = 0.5 + np.abs(values)
        elif name.endswith((".bias", ".running_mean")):
            values = 0.1 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        return values.astype(np.float32)

    return tensor
