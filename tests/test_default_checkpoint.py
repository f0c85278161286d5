# SPDX-License-Identifier: Apache-2.0
"""The bundled checkpoint is there, is the network it says, and is better than blending."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import flavr_jax
from flavr_jax.evaluation import drawings
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT
from flavr_jax.models.presets import PRESETS
from flavr_jax.video.files import reader

SAMPLE = Path(__file__).parents[1] / "docs" / "media" / "sample.mp4"


@pytest.fixture(scope="module")
def default() -> flavr_jax.Interpolator:
    return flavr_jax.load()


def test_the_default_network_is_the_preset_and_says_where_it_comes_from(default):
    assert default.config == PRESETS["default"]
    assert {"recipe", "steps", "device", "clips"} <= set(default.provenance)
    assert (DEFAULT_CHECKPOINT / "MODEL_CARD.md").is_file()


def test_the_default_checkpoint_stays_small():
    size = sum(file.stat().st_size for file in DEFAULT_CHECKPOINT.rglob("*") if file.is_file())
    assert size < 22e6


def test_the_default_network_beats_blending_on_the_bundled_clip(default):
    # Every second frame in, the one between asked for; the middle of the picture, where it moves.
    frames = [timed.pixels for timed in reader.open_source(SAMPLE)][:7]
    crop = np.stack(frames)[:, 64:192, 96:352].astype(np.float32) / 255
    prediction = default.predict(jnp.asarray(crop[None, ::2]))[0, 3]
    blend = (crop[2] + crop[4]) / 2
    errors = [float(np.mean((image - crop[3]) ** 2)) for image in (prediction, blend)]
    assert errors[0] < 0.5 * errors[1]


def test_int8_is_near_float32_and_hardly_worse(default):
    frames = [timed.pixels for timed in reader.open_source(SAMPLE)][:19]
    crops = np.stack(frames)[:, 64:192, 96:352].astype(np.float32)
    starts = (0, 6, 12)
    windows = np.stack([crops[start : start + 7 : 2] for start in starts]) / 255
    originals = np.stack([crops[start + 3] for start in starts])
    made = {}
    for precision in ("fp32", "int8"):
        known = default.precision == precision
        network = default if known else flavr_jax.load(precision=precision)
        made[precision] = np.stack(
            [255 * np.asarray(network.predict(window[None]))[0, 3] for window in windows]
        )
    assert np.abs(made["int8"] - made["fp32"]).mean() < 0.6
    exact, rounded = (
        np.mean((images - originals) ** 2, axis=(1, 2, 3)) for images in made.values()
    )
    assert (10 * np.log10(rounded / exact)).mean() < 0.1


def test_what_does_not_move_stays_as_it_is(default):
    frame = np.random.default_rng(0).integers(0, 256, (1, 128, 256, 3), dtype=np.uint8)
    still = np.repeat(frame, 4, axis=0)
    between = np.asarray(default.between(still, 8))[0]
    assert np.abs(between.astype(int) - frame).mean() < 2.0


def test_a_still_picture_stays_within_two_levels(default):
    frame = next(iter(reader.open_source(SAMPLE))).pixels[None, 64:192, 96:352]
    between = np.asarray(default.between(np.repeat(frame, 4, axis=0), 8))[0]
    assert np.abs(between.astype(int) - frame).max() <= 2


def test_a_static_display_stays_over_a_background_that_zooms(default):
    frames, covered = drawings.game(4)
    frames, covered = frames[:, :128], covered[:128]
    between = np.asarray(default.between(frames, 8))[0]
    assert np.abs(between.astype(int) - frames[0])[:, covered].max() <= 3


@pytest.mark.parametrize("period", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_the_harshest_patterns_stay_pictures(default, period, step):
    # A network may answer what training never showed with numbers in the thousands.
    columns = np.arange(64)[None] + step * np.arange(4)[:, None]
    stripes = (columns // (period // 2) % 2).astype(np.float32)[:, None, :, None]
    checks = np.abs(stripes - np.arange(64)[:, None, None] // (period // 2) % 2)
    for pattern in (stripes, checks):
        window = np.broadcast_to(pattern, (1, 4, 64, 64, 3))
        frames = np.asarray(default.predict(window))
        assert frames.min() > -0.5
        assert frames.max() < 1.5
