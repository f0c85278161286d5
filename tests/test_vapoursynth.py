# SPDX-License-Identifier: Apache-2.0
"""The function for VapourSynth: rates, times, cuts, random access, and vspipe."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

vs = pytest.importorskip("vapoursynth", reason="has wheels for Python 3.12 and newer")

import flavr_jax.vapoursynth as plugin  # noqa: E402 - needs the package
from flavr_jax.config import ModelConfig  # noqa: E402
from flavr_jax.inference.interpolator import Interpolator  # noqa: E402

ROOT = Path(__file__).parents[1]


class Linear(Interpolator):
    """Stands for a network: blends the middle frames, and adds a thousandth of the outer ones."""

    def __init__(self):
        self.config = ModelConfig(n_outputs=3)
        self.calls = 0

    def predict(self, windows):
        self.calls += 1
        before, first, second, after = np.moveaxis(np.asarray(windows), 1, 0)
        parts = [first + (second - first) * k / 4 for k in (1, 2, 3)]
        return np.stack(parts, 1) + (before + 2 * after)[:, None] / 1000


def ramp(count, cuts=(), fmt=None):
    """Frame i is grey of the value i / 16."""
    core = vs.core
    frames = [
        core.std.BlankClip(
            format=fmt or vs.RGBS, width=16, height=8, length=1, fpsnum=24, color=[i / 16] * 3
        )
        for i in range(count)
    ]
    clip = core.std.Splice(frames)
    return core.std.FrameEval(
        clip, lambda n: clip.std.SetFrameProps(_SceneChangeNext=int(n in cuts))
    )


def values(clip, numbers=None):
    numbers = range(clip.num_frames) if numbers is None else numbers
    return [float(np.asarray(clip.get_frame(n)[1])[3, 5]) for n in numbers]


def expected(before, first, second, after, part):
    return first + (second - first) * part + (before + 2 * after) / 1000


def test_source_frames_stay_and_others_come_from_the_four_around_them():
    made = values(plugin.interpolate(ramp(4), 4, network=Linear()))
    assert len(made) == 13
    np.testing.assert_allclose(made[::4], np.arange(4) / 16, atol=1e-7)
    np.testing.assert_allclose(made[6], expected(0, 1 / 16, 2 / 16, 3 / 16, 0.5), atol=1e-6)
    # The frames beyond the ends continue the change; below 0 they are clipped.
    np.testing.assert_allclose(made[1], expected(0, 0, 1 / 16, 2 / 16, 0.25), atol=1e-6)
    np.testing.assert_allclose(made[11], expected(1 / 16, 2 / 16, 3 / 16, 4 / 16, 0.75), atol=1e-6)


def test_any_order_gives_the_same_frames_and_an_interval_is_computed_once():
    network = Linear()
    clip = plugin.interpolate(ramp(5), 4, network=network)
    order = [9, 2, 15, 1, 10, 11, 3, 6]
    shuffled = values(clip, order)
    assert network.calls == 4
    in_order = values(plugin.interpolate(ramp(5), 4, network=Linear()))
    assert shuffled == [in_order[n] for n in order]


def test_a_rational_rate_has_its_times_and_durations():
    clip = plugin.interpolate(ramp(5), fps_num=60, network=Linear())
    assert clip.fps == Fraction(60)
    assert clip.num_frames == 11
    props = clip.get_frame(3).props
    assert (props["_DurationNum"], props["_DurationDen"]) == (1, 60)
    # 2.5 times the rate: frame 5 is source frame 2; frame 1 is at 0.4, rounded to 2 quarters.
    found = values(clip, [5, 1])
    np.testing.assert_allclose(found, [2 / 16, expected(0, 0, 1 / 16, 2 / 16, 0.5)], atol=1e-6)


def test_a_frame_is_repeated_up_to_a_cut_and_none_is_made_across_it():
    made = values(plugin.interpolate(ramp(6, cuts={2}), 2, network=Linear()))
    assert made[5] == made[4] == pytest.approx(2 / 16)
    # The interval before the cut continues its own change instead of reading frame 3, and so back.
    np.testing.assert_allclose(made[3], expected(0, 1 / 16, 2 / 16, 3 / 16, 0.5), atol=1e-6)
    np.testing.assert_allclose(made[7], expected(2 / 16, 3 / 16, 4 / 16, 5 / 16, 0.5), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_clips_work(count):
    made = values(plugin.interpolate(ramp(count), 2, network=Linear()))
    assert len(made) == 2 * count - 1
    np.testing.assert_allclose(made[::2], np.arange(count) / 16, atol=1e-7)


def test_half_floats_stay_half_floats():
    clip = plugin.interpolate(ramp(4, fmt=vs.RGBH), 2, network=Linear())
    assert clip.format.id == vs.RGBH
    assert values(clip, [3])[0] == pytest.approx(expected(0, 1 / 16, 2 / 16, 3 / 16, 0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `factor` or `fps_num`"),
        ({"factor": 2, "fps_num": 60}, "either `factor` or `fps_num`"),
        ({"factor": 3}, "makes divisors of 4"),
        ({"fps_num": 12}, "below the clip's rate"),
        ({"fps_num": 0}, "no frame rate"),
    ],
)
def test_rates_that_cannot_be_made_are_explained(options, message):
    with pytest.raises(vs.Error, match=message):
        plugin.interpolate(ramp(3), **options, network=Linear())


def test_other_formats_are_refused():
    clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=16, height=16, length=3)
    with pytest.raises(vs.Error, match="not RGBS or RGBH"):
        plugin.interpolate(clip, 2, network=Linear())


def test_vspipe_runs_the_example_on_the_bundled_network(tmp_path):
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)}
    # Tells vspipe which Python to load; once for each installation.
    subprocess.run([programs / "vapoursynth", "config"], env=environment, check=True)
    command = [
        programs / "vspipe",
        "-a",
        "size=32",
        "-a",
        "frames=3",
        ROOT / "examples/double.vpy",
        "-",
    ]
    run = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    frames = np.frombuffer(run.stdout, np.uint8).reshape(5, 32 * 32 * 3 // 2)  # YUV 4:2:0
    assert len({frame.tobytes() for frame in frames}) == 5
