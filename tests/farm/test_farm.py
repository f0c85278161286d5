# SPDX-License-Identifier: Apache-2.0
"""``flavr farm`` on a Ray cluster of two workers, beside ``flavr interpolate``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flavr_jax.commands import farm
from flavr_jax.farm import cluster
from tests.commands.clips import write_clip, write_tone

ray = pytest.importorskip("ray", reason="Ray has no wheel for this version of Python")

FRAMES = {"long.mp4": 30, "short.mkv": 9}
SEGMENT = 24


@pytest.fixture(scope="module")
def two_workers():
    """A cluster of two cores; gives its address."""
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    tone = write_tone(folder / "tone.wav")
    for name, count in FRAMES.items():
        write_clip(folder / name, count, others=tone)
    return folder


@pytest.fixture(scope="module")
def network(untrained):
    return untrained(7)


def words(footage, network):
    inputs = [str(footage / name) for name in FRAMES]
    return [*inputs, "--checkpoint", str(network), "--segment", str(SEGMENT)]


@pytest.fixture(scope="module")
def expected(footage, network, tmp_path_factory):
    """The files that ``flavr interpolate`` makes on a machine of one core."""
    folder = tmp_path_factory.mktemp("expected")
    subprocess.run(
        [sys.executable, "-m", "flavr_jax", "interpolate", *words(footage, network),
         "--output-folder", str(folder), "--threads", "1", "--quiet"],
        env={**os.environ, "PJRT_NPROC": "1"},
        check=True,
        timeout=120,
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def run(two_workers, footage, network, tmp_path, capfd):
    """Run ``flavr farm`` in this process; gives its exit code and the events it told."""

    def run(**changes):
        options = farm.Options(
            tuple(str(footage / name) for name in FRAMES),
            output=tmp_path,
            segment=SEGMENT,
            network=farm.Network(network),
            messages=farm.Messages(json=True),
        )
        code = farm.main(farm.dataclasses.replace(options, **changes))
        return code, [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    return run


def made(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def writer_of_a_segment(folder, patience=60.0):
    """Wait until a worker is writing a segment; return the number of its process."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if not (process / "cmdline").read_bytes().startswith(b"ray::Hand"):
                    continue
                opened = [os.readlink(link) for link in (process / "fd").iterdir()]
                if any(name.startswith(str(folder)) and "unfinished" in name for name in opened):
                    return int(process.name)
        time.sleep(0.005)
    raise TimeoutError("no worker writes a segment")


def test_a_farm_makes_the_files_of_one_machine(run, footage, expected, tmp_path):
    (footage / "notes.mp4").write_text("no video")
    mistakes = str(footage / "notes.mp4"), str(footage / "gone.mp4")
    code, events = run(files=(*(str(footage / name) for name in FRAMES), *mistakes))
    assert code == 2
    notes = [event["note"] for event in events if event["event"] == "end" and event["code"] == 2]
    assert any("notes.mp4 is not a video" in note for note in notes)
    assert any("gone.mp4: No such file" in note for note in notes)
    assert made(tmp_path) == expected
    assert (events[0]["event"], events[0]["workers"]) == ("start", 2)
    assert (
        events[-1]["done"] == events[-1]["total"] == sum(8 * (n - 1) + 1 for n in FRAMES.values())
    )
    # What is there already is left as it is.
    code, events = run()
    assert code == 0
    assert [event["note"][:9] for event in events if event["event"] == "end"] == ["it exists"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process of a worker in /proc")
def test_the_loss_of_a_worker_changes_no_bit(run, expected, tmp_path):
    killed = []

    def kill():
        killed.append(writer_of_a_segment(tmp_path))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    code, events = run()
    killer.join(60)
    assert (code, len(killed)) == (0, 1)
    assert events[-1]["lost"] == 1
    assert made(tmp_path) == expected
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process of a worker in /proc")
def test_a_second_run_goes_on_where_the_head_was_lost(
    run, two_workers, footage, network, expected, tmp_path
):
    head = subprocess.Popen(
        [sys.executable, "-m", "flavr_jax", "farm", *words(footage, network),
         "--output", str(tmp_path), "--address", two_workers, "--quiet"],
    )  # fmt: skip
    try:
        while not (finished := sorted(tmp_path.glob("*/*.segment"))):
            assert head.poll() is None, "it ended before a segment was finished"
            time.sleep(0.02)
    finally:
        head.kill()
        head.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished}
    seen = {}
    watch = threading.Event()

    def look():
        while not watch.wait(0.02):
            for path in kept:
                with contextlib.suppress(OSError):
                    seen.setdefault(path, set()).add(path.stat().st_mtime_ns)

    looker = threading.Thread(target=look)
    looker.start()
    code, _ = run()
    watch.set()
    looker.join()
    assert code == 0
    assert made(tmp_path) == expected
    assert seen == {path: {time} for path, time in kept.items()}, "finished segments were replaced"


class Elsewhere:
    """A worker whose module no other process can import, as if it were not installed there."""

    def ready(self):
        pass


def test_a_farm_whose_workers_cannot_start_says_why(two_workers):
    hands = cluster.Cluster(ray, cluster.Workers(1, 0), hand=Elsewhere)

    def wait():
        while True:
            hands.hire()
            list(hands.ended())

    with pytest.raises(OSError, match=r"No module named 'test_farm'.*Install the same flavr_jax"):
        wait()


def test_workers_suit_the_cluster(two_workers):
    assert cluster.Workers.of(ray) == cluster.Workers(cpus=1, gpus=0)
    assert cluster.Workers.of(ray, 2).count(ray) == 1
    assert cluster.Workers.of(ray, 2, wanted=7).count(ray) == 7
    with pytest.raises(ValueError, match="`cpus` is 3, but no machine of the cluster"):
        cluster.Workers.of(ray, 3)
