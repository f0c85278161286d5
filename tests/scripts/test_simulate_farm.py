# SPDX-License-Identifier: Apache-2.0
"""The simulated farm obeys the limits that can be calculated by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("simpy")
SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_farm.py"
SPEC = importlib.util.spec_from_file_location("simulate_farm", SCRIPT)
farm = importlib.util.module_from_spec(SPEC)


@pytest.fixture(scope="module", autouse=True)
def script():
    import sys

    sys.modules["simulate_farm"] = farm
    SPEC.loader.exec_module(farm)
    yield
    del sys.modules["simulate_farm"]


def fast(**changes):
    """Times of a farm in which nothing takes long, apart from some changes."""
    nothing = {"head": 0.0, "prepare": 0.0, "opened": 0.0, "frame_in": 0.0, "frame_out": 0.0}
    endless = dict.fromkeys(("scanned", "rendered", "joined"), 1e12)
    return farm.Times(**{**nothing, **endless, **changes})


def test_workers_are_the_limit_of_a_small_farm():
    options = farm.Options(clips=400, times=fast(rendered=100.0))
    result = farm.simulate(options, 10)
    assert result.frames == pytest.approx(10 * 100, rel=0.02)
    assert result.limit == "GPUs"


def test_the_head_is_the_limit_of_a_large_farm():
    options = farm.Options(clips=500, times=fast(head=0.01, rendered=1e5), longest=10**6)
    result = farm.simulate(options, 1000)
    # Each clip takes four tasks: to look at it, to scan, to render, to join.
    assert result.clips == pytest.approx(1 / (4 * 0.01), rel=0.1)
    assert result.limit == "head"
    two = farm.simulate(dataclasses.replace(options, heads=2), 1000)
    assert two.clips == pytest.approx(2 * result.clips, rel=0.1)


def test_the_storage_is_the_limit_if_it_is_slow():
    times = fast(frame_out=1e6, rendered=1e5)
    result = farm.simulate(farm.Options(clips=300, times=times, bandwidth=1e8), 100)
    # Frames are written into segments, read, and written into the file.
    assert result.frames == pytest.approx(1e8 / 3e6, rel=0.05)
    assert result.limit == "bandwidth"
    many = farm.simulate(farm.Options(clips=300, times=fast(), operations=10.0), 100)
    assert many.limit == "files"


def test_every_frame_is_rendered_once_however_clips_are_divided():
    options = farm.Options(clips=50, times=fast(rendered=100.0))
    whole = farm.simulate(options, 1)
    parts = farm.simulate(dataclasses.replace(options, longest=1), 1)
    assert parts.frames * parts.seconds == pytest.approx(whole.frames * whole.seconds)
    assert parts.seconds == pytest.approx(whole.seconds, rel=1e-3)


def test_impossible_farms_are_refused():
    with pytest.raises(ValueError, match="`heads` is 0"):
        farm.Options(heads=0)
    with pytest.raises(ValueError, match="each head"):
        farm.Options(gpus=(1,), heads=2)
