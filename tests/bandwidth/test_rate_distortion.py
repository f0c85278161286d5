# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion of a small clip; the mean of two frames restores the one between."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction

import av.filter
import numpy as np
import pytest

from flavr_jax.bandwidth.rate_distortion import Point, bd_rate, decode, encode, measure, vmaf
from flavr_jax.video.files.encoders import Encoding

RATE = Fraction(25)
FAST = Encoding(crf=30, preset="ultrafast")


def clip(count=5):
    """A pattern that drifts, in smooth noise."""
    row, column = np.mgrid[:64, :96][..., None]
    waves = [
        np.sin((column - 2 * index) / 7 + row / 9 + np.array([0.0, 2.0, 4.0]))
        for index in range(count)
    ]
    return (127 + 80 * np.stack(waves)).astype(np.uint8)


def average(frames, drop):
    assert drop == 2
    between = (frames[:-1].astype(int) + frames[1:]) // 2
    return np.insert(frames, np.arange(1, len(frames)), between.astype(np.uint8), axis=0)


def error(frames, originals):
    return {"error": float(np.abs(frames.astype(int) - originals).mean())}


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_every_codec_returns_the_frames_in_order(codec):
    frames = clip()
    shown = decode(encode(frames, RATE, codec, FAST), codec)
    assert shown.shape == frames.shape
    errors = np.abs(shown[:, None].astype(int) - frames[None]).mean(axis=(2, 3, 4))
    assert errors.argmin(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_half_of_the_frames_are_sent_and_the_others_restored():
    frames = clip(6)  # the last one is left out
    whole = measure(frames[:5], RATE, "h264", FAST, 1, average, error)
    half = measure(frames, RATE, "h264", FAST, 2, average, error)
    assert half.rate < whole.rate
    assert whole.restored == {}
    of_all = (3 * half.kept["error"] + 2 * half.restored["error"]) / 5
    assert half.scores["error"] == pytest.approx(of_all, rel=1e-6)
    packets = encode(frames[:5:2], RATE / 2, "h264", FAST)
    assert half.rate == pytest.approx(8 * sum(map(len, packets)) / 0.2 / 1000)


def curve(rates, qualities, metric="psnr"):
    return [Point(1, 0, rate, {metric: quality}, {}, {}) for rate, quality in zip(rates, qualities)]


@pytest.mark.skipif(importlib.util.find_spec("bjontegaard") is None, reason="no bjontegaard")
def test_bd_rate_is_the_saving_at_equal_quality():
    rates, qualities = np.array([100.0, 200.0, 400.0, 800.0]), [30.0, 33.0, 36.0, 39.0]
    anchor = curve(rates, qualities)
    assert bd_rate(anchor, curve(0.5 * rates, qualities), "psnr") == pytest.approx(-50)
    assert bd_rate(anchor, curve(1.2 * rates, qualities), "psnr") == pytest.approx(20)
    assert bd_rate(anchor, curve(rates, [10.0, 11.0, 12.0, 13.0]), "psnr") is None
    distances = [0.4, 0.3, 0.2, 0.1]  # of LPIPS, less is better
    better = curve(0.5 * rates, distances, "lpips")
    assert bd_rate(curve(rates, distances, "lpips"), better, "lpips") == pytest.approx(-50)


@pytest.mark.skipif("libvmaf" not in av.filter.filters_available, reason="no libvmaf")
def test_vmaf_is_high_for_equal_frames_and_low_for_noisy_ones():
    frames = clip(3)
    noise = np.random.default_rng(0).normal(0, 50, frames.shape)
    noisy = np.clip(frames + noise, 0, 255).astype(np.uint8)
    equal, worse = vmaf(frames, frames), vmaf(noisy, frames)
    assert len(equal) == len(worse) == 3
    assert min(equal) > 95 > 80 > max(worse)


@pytest.mark.skipif(importlib.util.find_spec("bjontegaard") is None, reason="no bjontegaard")
@pytest.mark.parametrize("factor", [0.25, 0.9, 3.0])
def test_a_saving_and_its_inverse_cancel(factor):
    rates, qualities = np.array([90.0, 210.0, 380.0, 900.0]), [30.0, 32.5, 36.0, 38.0]
    anchor, other = curve(rates, qualities), curve(factor * rates, qualities)
    assert bd_rate(anchor, anchor, "psnr") == pytest.approx(0.0, abs=1e-9)
    forth, back = bd_rate(anchor, other, "psnr"), bd_rate(other, anchor, "psnr")
    assert (1 + forth / 100) * (1 + back / 100) == pytest.approx(1.0)


@pytest.mark.skipif(importlib.util.find_spec("bjontegaard") is None, reason="no bjontegaard")
def test_the_order_of_points_does_not_matter():
    points = curve([100.0, 200.0, 400.0, 800.0], [30.0, 33.0, 36.0, 39.0])
    other = curve([90.0, 180.0, 300.0, 700.0], [30.5, 33.0, 35.5, 39.5])
    assert bd_rate(points[::-1], [other[i] for i in (2, 0, 3, 1)], "psnr") == pytest.approx(
        bd_rate(points, other, "psnr")
    )


def test_without_its_package_the_delta_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    points = curve([100.0, 200.0, 400.0, 800.0], [30.0, 33.0, 36.0, 39.0])
    with pytest.raises(ModuleNotFoundError, match=r"bjontegaard.*bandwidth\]"):
        bd_rate(points, points, "psnr")


def test_without_its_filter_vmaf_says_what_to_do(monkeypatch):
    monkeypatch.setattr(av.filter, "filters_available", set())
    with pytest.raises(ValueError, match="FFmpeg with libvmaf, and this one has none; leave it"):
        vmaf(clip(1), clip(1))


def test_a_lower_quality_needs_fewer_bits_and_has_larger_errors():
    frames = clip(3)
    fine, coarse = (
        measure(frames, RATE, "h264", Encoding(crf=crf, preset="ultrafast"), 1, average, error)
        for crf in (10, 45)
    )
    assert (fine.crf, coarse.crf) == (10, 45)
    assert coarse.rate < 0.5 * fine.rate
    assert coarse.scores["error"] > 2 * fine.scores["error"]
    assert fine.scores == fine.kept


@pytest.mark.parametrize(("count", "drop", "used"), [(1, 1, 1), (1, 4, 1), (9, 4, 9), (12, 4, 9)])
def test_frames_after_the_last_that_is_sent_are_left_out(count, drop, used):
    seen = []

    def counted(frames, originals):
        seen.append(len(frames))
        assert len(frames) == len(originals)
        return {}

    def repeat(frames, drop):
        return np.repeat(frames, drop, axis=0)[: (len(frames) - 1) * drop + 1]

    measure(clip(count), RATE, "h264", FAST, drop, repeat, counted)
    sent = (used - 1) // drop + 1
    assert seen == [used, sent, used - sent][: 2 + (drop > 1)]
