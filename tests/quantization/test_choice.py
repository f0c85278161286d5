# SPDX-License-Identifier: Apache-2.0
"""The choice of the feature maps that are stored in 8 bits."""

import functools
import math

import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models import quantized
from flavr_jax.quantization import choice as choices
from flavr_jax.quantization import report
from flavr_jax.quantization.calibration import PsnrLoss
from flavr_jax.quantization.choice import Limits

CONFIG = ModelConfig(width=2, n_outputs=1)


@functools.cache
def maps():
    """Feature maps that may have 8 bits; finding them traces the network."""
    return quantized.feature_maps(CONFIG)


def additive(costs):
    """A measurement in which every stored map loses what ``costs`` says, on two clips."""

    def measure(scales):
        lost = sum(costs.get(name, 0.0) for name in scales)
        clips = {"easy": lost / 3, "hard": lost}
        return PsnrLoss(clips, clips)

    return measure


def choose(costs, limits):
    magnitudes = dict.fromkeys(maps(), 7.0)
    return choices.choose(CONFIG, magnitudes, additive(costs), limits)


def test_everything_is_stored_in_8_bits_where_that_is_harmless():
    choice = choose(dict.fromkeys(maps(), 1e-4), Limits(0.01, 0.025))
    assert set(choice.scales) == set(maps())
    assert choice.chosen == choice.everything
    assert set(choice.scales.values()) == {2 * 7.0 / 448}  # twice the largest magnitude fits


def test_the_map_that_does_the_harm_gets_16_bits_and_the_report_says_so():
    costs = {**dict.fromkeys(maps(), 1e-4), "encoder/layer2/0/conv2": 0.08}
    choice = choose(costs, Limits(0.01, 0.025))
    assert [m.name for m in choice.maps if not m.in_8_bits] == ["encoder/layer2/0/conv2"]
    assert choice.chosen.worst == pytest.approx(23 * 1e-4)
    assert choice.everything.worst == pytest.approx(0.08 + 23 * 1e-4)
    harmful = report.as_json(choice)["maps"]["encoder/layer2/0/conv2"]
    assert harmful["stored"] == "bf16"
    assert harmful["loss_worst_alone"] == pytest.approx(0.08)


def test_of_two_equally_harmful_maps_the_one_with_the_cheaper_readers_gets_16_bits():
    # One is read by the last upsampling, the other by the half-sized convolution that begins a
    # stage: 2·2·48 taps at a quarter of 4 times the pixels are more than 2·4·27 at a quarter.
    costs = {"decoder/stages/3/conv": 0.02, "encoder/layer3/0/shortcut": 0.02}
    by_name = {each.name: each.products for each in quantized.convolutions(CONFIG)}
    assert by_name["decoder/stages/4/conv"] > by_name["encoder/layer3/0/conv2"]
    choice = choose(costs, Limits(0.1, 0.025))
    assert [m.name for m in choice.maps if not m.in_8_bits] == ["encoder/layer3/0/shortcut"]


def test_the_mean_has_a_limit_of_its_own():
    choice = choose({"encoder/stem": 0.02}, Limits(mean_loss=0.001, worst_loss=1.0))
    assert [m.name for m in choice.maps if not m.in_8_bits] == ["encoder/stem"]


def test_a_choice_made_before_is_taken_unless_it_loses_too_much():
    measured = []

    def measure(scales):
        measured.append(set(scales))
        return additive({maps()[0]: 0.02, maps()[1]: 0.02})(scales)

    magnitudes, like = dict.fromkeys(maps(), 7.0), {maps()[2], maps()[3], "of another network"}
    choice = choices.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like=like)
    assert measured == [{maps()[2], maps()[3]}]
    assert set(choice.scales) == {maps()[2], maps()[3]}
    assert choice.everything is None
    assert "loss_worst_alone" not in report.as_json(choice)["maps"][maps()[0]]
    assert report.table(choice).row_count == len(maps()) + 1

    choice = choices.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like={maps()[1]})
    assert set(choice.scales) == set(maps()[2:])
    assert choice.everything is not None

    choice = choices.choose(CONFIG, magnitudes, measure, Limits(0.1, 0.01), like={"of another"})
    assert set(choice.scales) == set(maps()[2:])  # nothing to take


def test_nothing_is_stored_in_8_bits_where_nothing_helps():
    assert choose(dict.fromkeys(maps(), 1.0), Limits(0.01, 0.02)).scales == {}
    assert choose(dict.fromkeys(maps(), math.inf), Limits(0.01, 0.02)).scales == {}


def test_the_share_of_products_counts_convolutions_whose_inputs_are_all_in_8_bits():
    choice = choose({"encoder/stem": 1.0}, Limits(0.01, 0.02))
    every = quantized.convolutions(CONFIG)
    readers = {"encoder/stem", "encoder/layer1/0/conv1", "decoder/stages/4/conv"}
    readers.add("encoder/layer1/0/conv2")  # adds the stem's output to its own
    left = sum(each.products for each in every if each.name not in readers)
    assert choice.share == pytest.approx(left / sum(each.products for each in every))


def test_a_map_of_zeros_has_a_scale_nevertheless():
    choice = choices.choose(CONFIG, dict.fromkeys(maps(), 0.0), additive({}), Limits())
    assert all(scale == 1.0 for scale in choice.scales.values())


def test_a_network_without_such_maps_is_told():
    with pytest.raises(ValueError, match="Use bf16"):
        choices.choose(CONFIG, {}, additive({}))


def test_limits_are_above_zero():
    with pytest.raises(ValueError, match="`worst_loss` is 0"):
        Limits(worst_loss=0.0)


def test_a_map_that_was_returned_without_need_is_stored_in_8_bits_after_all():
    # Two maps do harm together only, so alone the third looks like the one to blame.
    first, second, third = maps()[0], maps()[5], maps()[9]

    def measure(scales):
        lost = 2.0 * (first in scales and second in scales) + 0.5 * (third in scales)
        return PsnrLoss({"a": lost}, {"a": lost})

    choice = choices.choose(CONFIG, dict.fromkeys(maps(), 1.0), measure, Limits(1.0, 1.0))
    assert [m.name for m in choice.maps if not m.in_8_bits] == [second]
    assert choice.chosen.worst == 0.5
