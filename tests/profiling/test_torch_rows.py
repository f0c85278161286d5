# SPDX-License-Identifier: Apache-2.0
"""Rows of PyTorch, with a stand-in for the peer that needs no PyTorch."""

import contextlib
import types

import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.profiling import comparison


class Tensor:
    """As much of a PyTorch tensor as the comparison uses."""

    def __init__(self, values):
        self.values = values

    def float(self):
        return Tensor(self.values.astype(np.float32))

    def permute(self, *axes):
        return Tensor(self.values.transpose(axes))

    def cpu(self):
        return self

    def numpy(self):
        return self.values


class Event:
    """A CUDA event on a clock that the test sets."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing
        self.time = None

    def record(self):
        self.time = Event.now

    def elapsed_time(self, later):
        return later.time - self.time


@pytest.fixture
def case():
    found = comparison.NetworkCase(ModelConfig(width=4, n_outputs=2), 1, 16, 24, check=False)
    rng = np.random.default_rng(0)
    found.expected = rng.standard_normal((1, 2, 16, 24, 3)).astype(np.float32)
    return found


@pytest.fixture
def peer(case, monkeypatch):
    """Gives the expected output in PyTorch's order of axes: [batch, time, 3, height, width]."""
    calls = []

    class Peer:
        torch = types.SimpleNamespace(
            cuda=types.SimpleNamespace(
                synchronize=lambda: calls.append("synchronize"), Event=Event
            ),
            compile=lambda function, mode: calls.append(("compile", mode)) or function,
        )

        def __call__(self, windows, mark=lambda stage: None):
            calls.append(windows)
            return Tensor(case.expected.transpose(0, 1, 4, 2, 3))

    @contextlib.contextmanager
    def around():
        calls.append("enter")
        yield

    found = Peer()
    monkeypatch.setattr(comparison, "_prepare", lambda *_: (found, "windows", around))
    found.calls = calls
    return found


def test_an_output_is_compared_with_channels_last(case, peer):
    row = comparison.run_torch(case, "float32", 3, "cpu")
    assert row.name == "PyTorch float32"
    assert row.error == 0.0
    assert row.peak_bytes is None
    assert len(row.timing.milliseconds) == 3
    # Each call runs in the context of its mode, and a CPU has nothing to wait for.
    assert peer.calls.count("enter") == peer.calls.count("windows")
    assert "synchronize" not in peer.calls


def test_a_gpu_is_waited_for_after_every_timed_call(case, peer):
    comparison.run_torch(case, "bfloat16", 3, "cuda")
    # Three warm-ups, three timed calls, and one wait for three queued calls.
    assert peer.calls.count("synchronize") == 3 + 3 + 1
    # The error is computed on one more call.
    assert peer.calls.count("windows") == 3 + 3 + 3 + 1


def test_a_compiled_mode_compiles_as_its_name_says(case, peer, monkeypatch):
    monkeypatch.setattr(comparison.importlib, "import_module", lambda name: types.SimpleNamespace())
    comparison.run_torch(case, "float16-max-autotune", 2, "cpu")
    assert [call for call in peer.calls if call[0] == "compile"] == [("compile", "max-autotune")]


def test_stages_are_medians_of_events_after_a_warm_up(case, peer, monkeypatch):
    durations = iter([900.0, 800.0, 700.0, 3.0, 1.0, 2.0])  # of the stem; three are a warm-up

    def call(self, windows, mark):
        Event.now += next(durations)
        mark("encoder/stem")
        Event.now += 5.0
        mark("out")

    monkeypatch.setattr(type(peer), "__call__", call)
    assert comparison.torch_stages(case, "float32", 3) == {"encoder/stem": 2.0, "out": 5.0}


def test_every_mode_has_the_type_of_its_name():
    for name, mode in comparison.TORCH_MODES.items():
        assert name.startswith(mode.dtype) or (name, mode.autocast) == ("autocast", True)
        assert (mode.compile is not None) == name.endswith(("compile", "max-autotune"))
        # Half precision is only fast with channels innermost.
        assert mode.channels_last == (mode.dtype != "float32")
    assert comparison.TORCH_MODES["float32"].tf32
    assert not comparison.TORCH_MODES["float32-no-tf32"].tf32
