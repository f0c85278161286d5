# SPDX-License-Identifier: Apache-2.0
"""What is measured for 8 bits, and that 8 bits stay harmless where contents are odd."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.models import flavr, quantized
from flavr_jax.models.layers import LARGEST
from flavr_jax.quantization import calibration
from flavr_jax.quantization.calibration import PsnrLoss
from flavr_jax.quantization.choice import Limits
from flavr_jax.quantization.clips import Example

pytestmark = pytest.mark.usefixtures("definition")

CONFIG = ModelConfig(width=2, n_outputs=1)
ranges = jax.jit(quantized.ranges, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    return flavr.init(CONFIG, jax.random.key(0))


def test_the_largest_magnitude_is_that_of_any_window(params):
    windows = np.random.default_rng(0).random((2, 4, 16, 16, 3), np.float32)
    windows[0] = windows[0] * 0.01 + 0.5
    together = calibration.largest_magnitudes(CONFIG, params, windows)
    assert tuple(together) == quantized.feature_maps(CONFIG)
    quiet, loud = (
        calibration.largest_magnitudes(CONFIG, params, windows[n : n + 1]) for n in (0, 1)
    )
    assert together == {name: max(quiet[name], loud[name]) for name in together}
    assert quiet["encoder/stem"] < loud["encoder/stem"]


def test_a_broken_network_is_refused(params):
    broken = {**params, "encoder": {**params["encoder"]}}
    broken["encoder"]["stem"] = {"kernel": params["encoder"]["stem"]["kernel"] * jnp.nan}
    windows = np.random.default_rng(0).random((1, 4, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=r"encoder/stem, .* is infinite or NaN"):
        calibration.largest_magnitudes(CONFIG, broken, windows)


def programs():
    """How many compiled networks are alive."""
    gc.collect()
    alive = jax.devices()[0].client.live_executables()
    return sum(each.hlo_modules()[0].name == "jit_apply" for each in alive)


def test_losses_are_differences_of_psnr_or_what_an_unrelated_error_costs(params):
    random = np.random.default_rng(0)
    inputs = random.random((2, 4, 16, 16, 3), np.float32)
    truth = random.random((2, 1, 16, 16, 3), np.float32)
    scales = {"encoder/stem": 0.02, "decoder/stages/3/conv": 0.02}
    packed = quantized.pack(CONFIG, params, scales)
    run = jax.jit(flavr.apply, static_argnums=0)
    exact, narrow = (
        np.concatenate([run(CONFIG, which, one[None]) for one in inputs])
        for which in (params, packed)
    )
    exact, narrow, truth64 = (x.astype(np.float64) for x in (exact, narrow, truth))

    def error(a, b):
        return ((a - b) ** 2).mean(axis=(1, 2, 3, 4)) + 1 / (12 * 255**2)

    actual = 10 * np.log10(error(narrow, truth64) / error(exact, truth64))
    independent = 10 * np.log10(
        1 + ((narrow - exact) ** 2).mean((1, 2, 3, 4)) / error(exact, truth64)
    )
    examples = [Example("one", *pair) for pair in zip(inputs, truth)]
    measure = calibration.psnr_losses(CONFIG, params, examples)
    # Other tests may have compiled the same function.
    before, compiled = programs(), run._cache_size()
    assert min(before, compiled) >= 2, "the programs of `run` are not found"
    loss = measure(scales)
    assert programs() == before, "a program is kept for each choice"
    assert run._cache_size() == compiled, "programs of others are dropped"
    assert loss.actual == {"one": pytest.approx(actual.mean(), rel=0.02)}
    assert loss.independent == {"one": pytest.approx(independent.mean(), rel=0.02)}
    assert loss.mean == loss.worst == max(loss.actual["one"], loss.independent["one"])


def test_a_loss_counts_what_is_larger():
    loss = PsnrLoss({"a": -0.5, "b": 0.3}, {"a": 0.1, "b": 0.2})
    assert loss.mean == pytest.approx(0.15)  # of −0.1 and 0.15
    assert (loss.worst, loss.worst_clip) == (0.3, "b")
    assert Limits(mean_loss=0.1, worst_loss=1.0).used_by(loss) == pytest.approx(1.5)
    assert Limits(mean_loss=1.0, worst_loss=0.1).used_by(loss) == pytest.approx(3.0)


@pytest.fixture(scope="module")
def bundled():
    return {name: flavr_jax.load(precision=name) for name in ("fp8", "fp32")}


def predict(network, frames):
    """In levels of 255, at all times."""
    return 255 * np.asarray(network.predict(frames[None].astype(np.float32))[0], np.float64)


def ramp(start, stop):
    """A grey ramp that moves by a pixel a frame; it has no noise that could hide bands."""
    x = np.arange(64)[None, None, :, None] + np.arange(4)[:, None, None, None]
    return np.broadcast_to(start + (stop - start) * x / 67, (4, 64, 64, 3))


SMOOTH = {
    "black": np.zeros((4, 64, 64, 3)),
    "white": np.ones((4, 64, 64, 3)),
    "grey": np.full((4, 64, 64, 3), 0.37),
    "dark ramp": ramp(0.0, 0.1),
    "ramp": ramp(0.3, 0.7),
}
EXTREME = {
    "flash": np.ones((4, 64, 64, 3)) * (np.arange(4) % 2)[:, None, None, None],
    "checkerboard": np.indices((4, 64, 64)).sum(axis=0)[..., None] % 2 * np.ones(3),
    "noise": np.random.default_rng(0).integers(0, 2, (4, 64, 64, 3)).astype(float),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_8_bits_make_no_bands_where_the_picture_is_smooth(bundled, name):
    fp8, exact = (predict(bundled[precision], SMOOTH[name]) for precision in ("fp8", "fp32"))
    # A band would begin with a step of a level.
    assert np.abs(fp8 - exact).max() < 0.25


@pytest.mark.parametrize("name", EXTREME)
def test_8_bits_hold_what_extreme_contrast_makes(bundled, name):
    stored = checkpoint.load(DEFAULT_CHECKPOINT)
    assert stored.quantization is not None
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored.params)
    window = jnp.asarray(EXTREME[name][None], jnp.float32)
    magnitudes = {key: float(each) for key, each in ranges(stored.config, params, window).items()}
    for key, scale in stored.quantization.scales.items():
        assert magnitudes[key] < LARGEST * scale, "it would be clipped"


@pytest.mark.parametrize("name", ["checkerboard", "still noise"])
def test_8_bits_keep_extreme_contrast_that_can_be_predicted(bundled, name):
    # Frames without anything in common have no right answer: the warping head takes the pixel of
    # one neighbour or the other, and rounding decides which. So here nothing moves.
    frames = {"checkerboard": EXTREME["checkerboard"], "still noise": EXTREME["noise"][[0] * 4]}
    fp8, exact = (predict(bundled[precision], frames[name]) for precision in ("fp8", "fp32"))
    assert np.sqrt(np.square(fp8 - exact).mean()) < 1


def test_clipped_numbers_stay_numbers(bundled):
    stored = checkpoint.load(DEFAULT_CHECKPOINT)
    assert stored.quantization is not None
    tiny = dict.fromkeys(stored.quantization.scales, 1e-6)
    clipped = Interpolator(stored.config, stored.params, precision="fp8", scales=tiny)
    for frames in (EXTREME["noise"], SMOOTH["black"]):
        assert np.isfinite(predict(clipped, frames)).all()
