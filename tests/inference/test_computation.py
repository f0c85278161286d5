# SPDX-License-Identifier: Apache-2.0
"""A network that predicts NaN or infinity is never taken for one that predicts pictures."""

from __future__ import annotations

from fractions import Fraction

import jax
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.inference import downloads, stream
from flavr_jax.inference.computation import Made, NonFiniteError
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.inference.precision import prepare
from flavr_jax.models import flavr, head
from flavr_jax.video.frames import TimedFrame

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = ModelConfig(width=1, n_outputs=3, base="blend")
# Programs are compiled once for each config, so the stand-in needs one that no other test has.
FRAGILE = ModelConfig(width=1, n_outputs=3, base="blend", decoder_widths=(4, 3, 2, 1, 1))


@pytest.fixture(scope="module")
def params():
    return flavr.init(CONFIG, jax.random.key(0))


@pytest.fixture
def fragile(monkeypatch):
    """A network that predicts NaN for windows with a bright last frame, and a blend for others."""

    def apply(config, params, windows, outputs=None):
        broken = windows[:, -1:].max(axis=(2, 3, 4), keepdims=True) > 0.9
        wanted = range(config.n_outputs) if outputs is None else outputs
        times = np.array([n + 1 for n in wanted]) / config.factor
        return jax.numpy.where(broken, jax.numpy.nan, head.blend(windows, times))

    monkeypatch.setattr(flavr, "apply", apply)
    return Interpolator(FRAGILE, flavr.init(FRAGILE, jax.random.key(0)))


def clip(levels):
    for number, level in enumerate(levels):
        pixels = np.full((8, 8, 3), level, np.uint8)
        yield TimedFrame(pixels, Fraction(number, 4), Fraction(1, 4))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("bright", "frame"), [(2, 2), (4, 10), (5, 14)])
def test_the_error_names_the_first_output_frame_that_is_wrong(fragile, bright, frame, batch):
    levels = [100] * 7
    levels[bright] = 255
    result = stream.interpolate(clip(levels), fragile, stream.Options(4, cut="ignore", batch=batch))
    made = []
    time = f"{(frame - 1) / 16:.3f}"
    with pytest.raises(NonFiniteError, match=f"^frame {frame} of the output, at {time} s, is NaN"):
        made.extend(result)
    assert len(made) < frame
    assert all(np.abs(one.pixels.astype(int) - 100).max() <= 1 for one in made)


def test_a_second_pass_names_its_frame_too(fragile):
    levels = [100, 100, 100, 100, 255, 100]
    result = stream.interpolate(clip(levels), fragile, stream.Options(16, cut="ignore"))
    with pytest.raises(NonFiniteError, match=r"^frame 34 of the output"):
        list(result)


def test_alpha_is_checked_too(fragile):
    frames = np.full((4, 8, 8, 4), 100, np.uint8)
    assert np.asarray(fragile.between(frames, 4)).shape == (1, 3, 8, 8, 4)
    frames[-1, ..., 3] = 255
    with pytest.raises(NonFiniteError, match="Use another checkpoint"):
        np.asarray(fragile.between(frames, 4))


def test_sums_that_overflow_in_fp16_name_the_precision_to_use(params):
    large = jax.tree.map(lambda leaf: leaf * 3000, params)
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    with pytest.raises(NonFiniteError, match=r"fp16 end at 65504\. Use `precision` bf16 or fp32"):
        np.asarray(Interpolator(CONFIG, large, precision="fp16").between(frames, 4))


@pytest.mark.parametrize(
    ("precision", "value"), [("fp16", 7e4), ("fp32", np.nan), ("bf16", np.inf)]
)
def test_weights_that_a_precision_cannot_hold_are_refused(params, precision, value):
    broken = jax.tree.map(np.array, params)
    broken["encoder"]["stem"]["kernel"][0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"stem/kernel .* where {precision} ends"):
        prepare(CONFIG, broken, precision)


def test_the_frames_of_a_computation_are_copied_once(fragile, monkeypatch):
    copies, finished = [], downloads.finished
    monkeypatch.setattr(downloads, "finished", lambda sent: copies.append(1) or finished(sent))
    made = fragile.between(np.full((5, 8, 8, 3), 100, np.uint8), 4)
    pictures = [Made(made, interval, part).pixels for interval in range(2) for part in range(3)]
    assert len(copies) == 1
    assert all(np.abs(pixels.astype(int) - 100).max() <= 1 for pixels in pictures)
