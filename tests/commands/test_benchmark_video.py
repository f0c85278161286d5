# SPDX-License-Identifier: Apache-2.0
"""Whole runs are timed stage by stage, beside what limits them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import types

import av
import jax
import numpy as np
import pytest

from flavr_jax import checkpoint, cli
from flavr_jax.commands import benchmark_video as script
from flavr_jax.config import ModelConfig
from flavr_jax.inference import stream
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr
from flavr_jax.profiling import video_throughput
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.reader import VideoReader

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = ModelConfig(width=1, n_outputs=3, base="blend")


@pytest.fixture(scope="module")
def network():
    return Interpolator(CONFIG, flavr.init(CONFIG, jax.random.key(0)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "drawn.mp4"
    video_throughput.draw_clip(path, (64, 48), 6)
    return VideoReader(path, headroom=True)


def test_a_drawn_clip_moves_and_has_its_size(clip):
    frames = [frame.pixels.astype(int) for frame in clip]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 6
    assert all(np.abs(a - b).mean() > 1 for a, b in itertools.pairwise(frames))


@pytest.mark.parametrize("output", video_throughput.OUTPUTS)
def test_a_run_counts_its_frames_and_the_time_of_every_stage(network, clip, tmp_path, output):
    found = video_throughput.run(clip, network, stream.Options(4, batch=1), output, tmp_path)
    assert found.frames == 21
    assert 0 < found.first <= found.seconds
    names = ["decode", "cuts", "device 0", "network", "download", "encode"]
    assert [stage.name for stage in found.times] == names
    # The thread of the device starts 5 computations and 5 copies of what they made.
    assert [stage.items for stage in found.times] == [6, 6, 10, 21, 21, 21]
    for stage in found.times:
        assert stage.working + stage.starved + stage.blocked <= found.seconds + 0.1


def test_with_a_gpu_a_child_process_decodes_and_searches(network, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(
        video_throughput, "jax", types.SimpleNamespace(default_backend=lambda: "gpu")
    )
    first = video_throughput.First(clip.path, 4)
    found = video_throughput.run(first, network, stream.Options(4, batch=1), "null", tmp_path)
    assert [stage.name for stage in found.times] == [
        "decode", "device 0", "network", "download", "encode",
    ]  # fmt: skip
    assert found.times[0].items == 4
    assert found.frames == 13


def test_finished_frames_are_the_frames_of_the_run(network, clip, tmp_path):
    path = tmp_path / "finished.y4m"
    video_throughput.write_finished(clip, network, stream.Options(4, batch=1), path)
    with av.open(str(path)) as container:
        written = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert len(written) == 21
    for original, stored in zip(clip, written[::4], strict=True):
        np.testing.assert_array_equal(original.original.to_ndarray(), stored)


@pytest.mark.parametrize("installed", [True, False])
def test_the_encoder_alone_encodes_all_finished_frames(
    network, clip, tmp_path, monkeypatch, installed
):
    path = tmp_path / "finished.y4m"
    video_throughput.write_finished(clip, network, stream.Options(4, batch=1), path)
    if not installed:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    name, rate = video_throughput.encoder_rate(path, 21, Encoding(preset="ultrafast"), tmp_path)
    assert rate > 0
    assert installed or name == "libx264"
    with av.open(str(tmp_path / "alone.mp4")) as container:
        written = list(container.decode(video=0))
    assert len(written) == 21
    # Not every frame is a key frame, as it is in the raw video.
    assert sum(frame.key_frame for frame in written) == 1


def test_the_network_alone_is_timed_in_intervals_per_second(network, clip):
    assert video_throughput.network_rate(network, clip, 4, 1, 0.05) > 0


def test_the_first_frames_of_a_source_are_a_source(clip):
    few = video_throughput.First(clip.path, 2)
    assert len(list(few)) == len(list(few)) == 2
    assert few.info.frame_count == 2


def test_traced_work_is_done_once_and_without_a_gpu_has_no_share(tmp_path):
    done = []
    share = video_throughput.busy_in(tmp_path, lambda: done.append(jax.numpy.ones(3).sum()))
    assert share is None
    assert done == [3]


def test_a_trace_without_a_gpu_has_no_share_of_it(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        jax.numpy.ones(3).block_until_ready()
    assert video_throughput.busy(tmp_path) is None


def test_the_program_prints_a_table_for_each_output(monkeypatch, capsys, tmp_path):
    path = tmp_path / "network"
    checkpoint.save(path, CONFIG, flavr.init(CONFIG, jax.random.key(0)), provenance={})
    arguments = [
        "--sizes", "64x48", "--factors", "4", "--frames", "5", "--seconds", "0.05",
        "--finished", "5", "--network.checkpoint", path, "--json", tmp_path / "out.jsonl",
        "--outputs", "null", "h264", "--batch", "1",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["benchmark_video.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run(script.main, script.Options)
    assert not stop.value.code
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["run"].rpartition(", ")[2] for row in rows] == ["null", "h264"]
    assert all(row["frames_per_second"] > 0 and row["network_alone"] > 0 for row in rows)
    shown = capsys.readouterr().out
    assert shown.count("waits for room") == 2
    assert re.search("of (ffmpeg|libx264) encoding the finished frames", " ".join(shown.split()))
