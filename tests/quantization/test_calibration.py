# SPDX-License-Identifier: Apache-2.0
"""The choice of what is stored in 8 bits, and that 8 bits stay harmless where contents are odd."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.models import flavr, quantized
from flavr_jax.quantization import calibration
from flavr_jax.quantization.calibration import Limits, Loss
from flavr_jax.quantization.clips import Example

CONFIG = ModelConfig(width=2, n_outputs=1)
MAPS = quantized.feature_maps(CONFIG)


@pytest.fixture(scope="module")
def params():
    return flavr.init(CONFIG, jax.random.key(0))


def additive(costs):
    """A measurement in which every stored map loses what ``costs`` says, on two clips."""

    def measure(scales):
        lost = sum(costs.get(name, 0.0) for name in scales)
        clips = {"easy": lost / 3, "hard": lost}
        return Loss(clips, clips)

    return measure


def choose(costs, limits):
    magnitudes = dict.fromkeys(MAPS, 7.0)
    return calibration.choose(CONFIG, magnitudes, additive(costs), limits)


def test_everything_is_stored_in_8_bits_where_that_is_harmless():
    report = choose(dict.fromkeys(MAPS, 1e-4), Limits(0.01, 0.025))
    assert set(report.scales) == set(MAPS)
    assert report.chosen == report.everything
    assert set(report.scales.values()) == {2 * 7.0 / 448}  # twice the largest magnitude fits


def test_the_map_that_does_the_harm_gets_16_bits_and_the_report_says_so():
    costs = {**dict.fromkeys(MAPS, 1e-4), "encoder/layer2/0/conv2": 0.08}
    report = choose(costs, Limits(0.01, 0.025))
    assert [m.name for m in report.maps if not m.in_8_bits] == ["encoder/layer2/0/conv2"]
    assert report.chosen.worst == pytest.approx(23 * 1e-4)
    assert report.everything.worst == pytest.approx(0.08 + 23 * 1e-4)
    harmful = report.as_json()["maps"]["encoder/layer2/0/conv2"]
    assert harmful["stored"] == "bf16"
    assert harmful["loss_worst_alone"] == pytest.approx(0.08)


def test_of_two_equally_harmful_maps_the_one_with_the_cheaper_readers_gets_16_bits():
    # One is read by the last upsampling, the other by the half-sized convolution that begins a
    # stage: 2·2·48 taps at a quarter of 4 times the pixels are more than 2·4·27 at a quarter.
    costs = {"decoder/stages/3/conv": 0.02, "encoder/layer3/0/shortcut": 0.02}
    by_name = {each.name: each.products for each in quantized.convolutions(CONFIG)}
    assert by_name["decoder/stages/4/conv"] > by_name["encoder/layer3/0/conv2"]
    report = choose(costs, Limits(0.1, 0.025))
    assert [m.name for m in report.maps if not m.in_8_bits] == ["encoder/layer3/0/shortcut"]


def test_the_mean_has_a_limit_of_its_own():
    report = choose({"encoder/stem": 0.02}, Limits(mean_loss=0.001, worst_loss=1.0))
    assert [m.name for m in report.maps if not m.in_8_bits] == ["encoder/stem"]


def test_a_choice_made_before_is_taken_unless_it_loses_too_much():
    measured = []

    def measure(scales):
        measured.append(set(scales))
        return additive({MAPS[0]: 0.02, MAPS[1]: 0.02})(scales)

    magnitudes, like = dict.fromkeys(MAPS, 7.0), {MAPS[2], MAPS[3], "of another network"}
    report = calibration.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like=like)
    assert measured == [{MAPS[2], MAPS[3]}]
    assert set(report.scales) == {MAPS[2], MAPS[3]}
    assert report.everything is None
    assert "loss_worst_alone" not in report.as_json()["maps"][MAPS[0]]
    assert report.table().row_count == len(MAPS) + 1

    report = calibration.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like={MAPS[1]})
    assert set(report.scales) == set(MAPS[2:])
    assert report.everything is not None

    report = calibration.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like={"of another"})
    assert set(report.scales) == set(MAPS[2:])  # nothing to take


def test_nothing_is_stored_in_8_bits_where_nothing_helps():
    assert choose(dict.fromkeys(MAPS, 1.0), Limits(0.01, 0.02)).scales == {}
    assert choose(dict.fromkeys(MAPS, math.inf), Limits(0.01, 0.02)).scales == {}


def test_the_share_of_products_counts_convolutions_whose_inputs_are_all_in_8_bits():
    report = choose({"encoder/stem": 1.0}, Limits(0.01, 0.02))
    every = quantized.convolutions(CONFIG)
    readers = {"encoder/stem", "encoder/layer1/0/conv1", "decoder/stages/4/conv"}
    readers.add("encoder/layer1/0/conv2")  # adds the stem's output to its own
    left = sum(each.products for each in every if each.name not in readers)
    assert report.share == pytest.approx(left / sum(each.products for each in every))


def test_a_map_of_zeros_has_a_scale_nevertheless():
    report = calibration.choose(CONFIG, dict.fromkeys(MAPS, 0.0), additive({}), Limits())
    assert all(scale == 1.0 for scale in report.scales.values())


def test_a_network_without_such_maps_is_told():
    with pytest.raises(ValueError, match="Use bf16"):
        calibration.choose(CONFIG, {}, additive({}))


def test_limits_are_above_zero():
    with pytest.raises(ValueError, match="`worst_loss` is 0"):
        Limits(worst_loss=0.0)


def test_the_largest_magnitude_is_that_of_any_window(params):
    windows = np.random.default_rng(0).random((2, 4, 16, 16, 3), np.float32)
    windows[0] = windows[0] * 0.01 + 0.5
    together = calibration.largest(CONFIG, params, windows)
    assert tuple(together) == MAPS
    quiet, loud = (calibration.largest(CONFIG, params, windows[n : n + 1]) for n in (0, 1))
    assert together == {name: max(quiet[name], loud[name]) for name in MAPS}
    assert quiet["encoder/stem"] < loud["encoder/stem"]


def test_a_broken_network_is_refused(params):
    broken = {**params, "encoder": {**params["encoder"]}}
    broken["encoder"]["stem"] = {"kernel": params["encoder"]["stem"]["kernel"] * jnp.nan}
    windows = np.random.default_rng(0).random((1, 4, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match=r"encoder/stem, .* is infinite or NaN"):
        calibration.largest(CONFIG, broken, windows)


def test_losses_are_differences_of_psnr_or_what_an_unrelated_error_costs(params):
    random = np.random.default_rng(0)
    inputs = random.random((2, 4, 16, 16, 3), np.float32)
    truth = random.random((2, 1, 16, 16, 3), np.float32)
    scales = {"encoder/stem": 0.02, "decoder/stages/3/conv": 0.02}
    packed = quantized.pack(CONFIG, params, scales)
    exact, narrow = (  # through the function that losses call, which is compiled already then
        np.concatenate([calibration._apply(CONFIG, which, one[None]) for one in inputs])
        for which in (params, packed)
    )
    exact, narrow, truth64 = (x.astype(np.float64) for x in (exact, narrow, truth))

    def error(a, b):
        return ((a - b) ** 2).mean(axis=(1, 2, 3, 4)) + 1 / (12 * 255**2)

    in_fact = 10 * np.log10(error(narrow, truth64) / error(exact, truth64))
    unrelated = 10 * np.log10(
        1 + ((narrow - exact) ** 2).mean((1, 2, 3, 4)) / error(exact, truth64)
    )
    examples = [Example("one", *pair) for pair in zip(inputs, truth)]
    loss = calibration.losses(CONFIG, params, examples)(scales)
    assert loss.in_fact == {"one": pytest.approx(in_fact.mean(), rel=0.02)}
    assert loss.unrelated == {"one": pytest.approx(unrelated.mean(), rel=0.02)}
    assert loss.mean == loss.worst == max(loss.in_fact["one"], loss.unrelated["one"])


def test_a_loss_counts_what_is_larger():
    loss = Loss({"a": -0.5, "b": 0.3}, {"a": 0.1, "b": 0.2})
    assert loss.mean == pytest.approx(0.15)  # of −0.1 and 0.15
    assert (loss.worst, loss.worst_clip) == (0.3, "b")
    assert loss.over(Limits(mean_loss=0.1, worst_loss=1.0)) == pytest.approx(1.5)
    assert loss.over(Limits(mean_loss=1.0, worst_loss=0.1)) == pytest.approx(3.0)


def test_a_map_that_was_dropped_in_vain_is_stored_in_8_bits_after_all():
    # Two maps do harm together only, so alone the third looks like the one to blame.
    first, second, third = MAPS[0], MAPS[5], MAPS[9]

    def measure(scales):
        lost = 2.0 * (first in scales and second in scales) + 0.5 * (third in scales)
        return Loss({"a": lost}, {"a": lost})

    report = calibration.choose(CONFIG, dict.fromkeys(MAPS, 1.0), measure, Limits(1.0, 1.0))
    assert [m.name for m in report.maps if not m.in_8_bits] == [second]
    assert report.chosen.worst == 0.5


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
    fp8, exact = (predict(bundled[precision], EXTREME[name]) for precision in ("fp8", "fp32"))
    # With scales of a fourth, where maps are clipped, it is 30 for the flash and 18 for the noise.
    assert np.sqrt(np.square(fp8 - exact).mean()) < 6


def test_clipped_numbers_stay_numbers(bundled):
    stored = checkpoint.load(DEFAULT_CHECKPOINT)
    assert stored.quantization is not None
    tiny = dict.fromkeys(stored.quantization.scales, 1e-6)
    clipped = Interpolator(stored.config, stored.params, precision="fp8", scales=tiny)
    for frames in (EXTREME["noise"], SMOOTH["black"]):
        assert np.isfinite(predict(clipped, frames)).all()
