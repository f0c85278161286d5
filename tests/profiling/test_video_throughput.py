# SPDX-License-Identifier: Apache-2.0
"""The share of time in which a GPU is busy, from traces that were written by hand."""

import os
from types import SimpleNamespace

import jax
import pytest

from flavr_jax.profiling import video_throughput


def plane(name, **lines):
    """A plane of a trace; each line has spans of start and end in nanoseconds."""
    return SimpleNamespace(
        name=name,
        lines=[
            SimpleNamespace(
                name=line.replace("_", " #"),
                events=[SimpleNamespace(start_ns=a, duration_ns=b - a) for a, b in spans],
            )
            for line, spans in lines.items()
        ],
    )


@pytest.fixture
def share(monkeypatch, tmp_path):
    def of(*planes):
        for age, name in enumerate(("new", "old")):
            (tmp_path / f"{name}.xplane.pb").touch()
            os.utime(tmp_path / f"{name}.xplane.pb", (1000 - age, 1000 - age))
        traces = {"new": SimpleNamespace(planes=planes), "old": SimpleNamespace(planes=[])}
        read = SimpleNamespace(from_file=lambda path: traces[os.path.basename(path)[:3]])
        monkeypatch.setattr(jax.profiler, "ProfileData", read)
        return video_throughput.busy(tmp_path)

    return of


def test_time_counts_once_however_many_streams_are_busy(share):
    # Busy from 100 to 160, within which a shorter kernel ends, and from 180 to 200.
    kernels, copies = [(180, 200), (100, 150)], [(110, 120), (140, 160)]
    assert share(plane("/device:GPU:0", Stream_13=kernels, Stream_14=copies)) == 80 / 100


def test_groups_of_kernels_and_other_devices_do_not_count(share):
    first = plane("/device:GPU:0", Stream_1=[(0, 10), (30, 40)], XLA_Modules=[(0, 40)])
    others = plane("/device:GPU:1", Stream_1=[(10, 30)]), plane("/host:CPU", Stream_1=[(0, 90)])
    assert share(*others, first) == 0.5


def test_a_trace_of_the_host_alone_has_no_share(share):
    assert share(plane("/host:CPU", Stream_1=[(0, 90)]), plane("/device:GPU:0")) is None
