# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models import classifier, flavr
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.training.warm_start import warm_start

pytestmark = pytest.mark.usefixtures("definition")

EIGHT = ModelConfig(width=4, n_outputs=7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("warm") / "eight"
    params = flavr.init(EIGHT, jax.random.key(1))
    checkpoint.save(path, EIGHT, params)
    return path, params


def test_another_factor_takes_all_but_the_last_layer(saved):
    path, params = saved
    own = flavr.init(ModelConfig(width=4, n_outputs=3), jax.random.key(2))
    found = warm_start(own, path)
    assert found.left == {
        "out/bias": "21 there, 9 here",
        "out/kernel": "7×7×4×21 there, 7×7×4×9 here",
    }
    np.testing.assert_array_equal(
        found.params["encoder"]["stem"]["kernel"], params["encoder"]["stem"]["kernel"]
    )
    np.testing.assert_array_equal(found.params["out"]["kernel"], own["out"]["kernel"])
    count = sum(leaf.size for leaf in jax.tree.leaves(own))
    assert found.share == pytest.approx(1 - (7 * 7 * 4 * 9 + 9) / count)
    assert "2 not: out/bias: 21 there, 9 here" in found.summary()


def test_a_wider_decoder_starts_as_the_narrower_one_and_learns_with_all_its_channels(saved):
    path, params = saved
    wider = dataclasses.replace(EIGHT, decoder_widths=(8, 4, 2, 3, 1))
    found = warm_start(flavr.init(wider, jax.random.key(2)), path)
    assert not found.left
    assert "of them into wider ones, which is all of them" in found.summary()
    windows = jax.random.uniform(jax.random.key(3), (1, 4, 16, 24, 3))
    grown = jax.tree.map(jnp.asarray, found.params)

    def loss_and_output(decoder):
        output = flavr.apply(wider, {**grown, "decoder": decoder}, windows)
        return jnp.square(output).mean(), output

    expected = jax.jit(flavr.apply, static_argnums=0)(EIGHT, params, windows)
    gradient, output = jax.jit(jax.grad(loss_and_output, has_aux=True))(grown["decoder"])
    assert np.abs(output - expected).max() < 1e-5
    for number, (new, old) in enumerate(zip(wider.decoder_widths, EIGHT.decoder_widths)):
        if new > old:  # what reads the new channels is moved off zero at once
            following = gradient["stages"][str(number + 1)]["conv"]["kernel"]
            assert np.abs(following[..., 4 * old : 4 * new, :]).max() > 0


def test_wider_looks_and_further_flows_start_as_the_narrower_network(tmp_path):
    looks = (LookConfig(4, 4, layers=1), LookConfig(1, 4, layers=1))
    old = ModelConfig(width=4, n_outputs=3, base="warp", trunk_scale=2, looks=looks)
    looks = (LookConfig(4, 8, layers=1), LookConfig(1, 6, layers=1))
    new = dataclasses.replace(old, looks=looks, flow_pairs=3)
    params = flavr.init(old, jax.random.key(1))
    for look in params["head"]["looks"].values():  # corrections of some pixels
        look["correct"]["kernel"] *= 30
    checkpoint.save(tmp_path / "old", old, params)
    found = warm_start(flavr.init(new, jax.random.key(2)), tmp_path / "old")
    assert not found.left
    # Smooth frames, because new flows are small random numbers of pixels.
    rows, columns = jnp.arange(32)[:, None] / 12, jnp.arange(32) / 10
    places = rows + columns + jnp.arange(4)[:, None, None]
    windows = jnp.broadcast_to(0.5 + 0.4 * jnp.sin(places)[None, ..., None], (1, 4, 32, 32, 3))
    apply = jax.jit(flavr.apply, static_argnums=0)
    before = apply(old, params, windows)
    blended = apply(old, flavr.init(old, jax.random.key(1)), windows)
    grown = jax.tree.map(jnp.asarray, found.params)
    assert np.abs(before - blended).max() > 0.1
    assert np.abs(apply(new, grown, windows) - before).max() < 0.02

    def loss(head):
        return jnp.square(flavr.apply(new, {**grown, "head": head}, windows)).mean()

    gradient = jax.jit(jax.grad(loss))(grown["head"])["looks"]
    assert np.abs(gradient["0"]["hidden"]["0"]["kernel"][..., 4:, :4]).max() > 0
    assert np.abs(gradient["1"]["correct"]["kernel"]).reshape(-1, 4, 20).max((0, 1)).min() > 0


def warp_network(*looks, **changes):
    looks = tuple(LookConfig(*each, layers=1) for each in looks)
    return ModelConfig(width=4, base="warp", **{"trunk_scale": 2, **changes}, looks=looks)


def looks_from(old, new, folder):
    """The start of a network from another one, and its random parameters."""
    checkpoint.save(folder / "old", old, flavr.init(old, jax.random.key(1)))
    own = flavr.init(new, jax.random.key(2))
    return warm_start(own, folder / "old"), own["head"]["looks"]


def test_looks_are_embedded_one_by_one_and_narrower_or_further_ones_stay_random(tmp_path):
    old = warp_network((4, 6), (1, 4), flow_pairs=2)
    found, own = looks_from(old, warp_network((4, 4), (1, 6), (1, 4), flow_pairs=2), tmp_path)
    looks = found.params["head"]["looks"]
    left = {name for name in found.left if "/2/" not in name}
    # The second look was the last one, which alone predicts further pairs of flows.
    assert {name for name in left if "/0/" not in name} == {
        "head/looks/1/correct/bias",
        "head/looks/1/correct/kernel",
    }
    assert found.left["head/looks/0/read/kernel"] == "3×3×20×6 there, 3×3×20×4 here"
    np.testing.assert_array_equal(looks["0"]["read"]["kernel"], own["0"]["read"]["kernel"])
    assert {"head/looks/1/read/kernel", "head/looks/1/hidden/0/kernel"} <= set(found.widened)
    assert not np.array(looks["1"]["hidden"]["0"]["kernel"])[..., 4:, :4].any()
    assert found.left["head/looks/2/read/kernel"] == "not there"
    np.testing.assert_array_equal(looks["2"]["correct"]["kernel"], own["2"]["correct"]["kernel"])


def test_a_new_look_in_front_of_the_others_changes_nothing_until_it_has_learned(tmp_path):
    old = warp_network((4, 4), (1, 4))
    params = flavr.init(old, jax.random.key(1))
    for look in params["head"]["looks"].values():  # corrections of some pixels
        look["correct"]["kernel"] *= 30
    checkpoint.save(tmp_path / "old", old, params)
    new = warp_network((8, 6), (4, 5), (1, 4))
    found = warm_start(flavr.init(new, jax.random.key(2)), tmp_path / "old")
    assert all(name.startswith("head/looks/0/") for name in found.left)
    assert "head/looks/1/read/kernel" in found.widened
    windows = jax.random.uniform(jax.random.key(3), (1, 4, 32, 32, 3))
    before = flavr.apply(old, params, windows)
    grown = jax.tree.map(jnp.asarray, found.params)
    assert np.abs(flavr.apply(new, grown, windows) - before).max() < 1e-5

    def loss(head):
        return jnp.square(flavr.apply(new, {**grown, "head": head}, windows)).mean()

    gradient = jax.grad(loss)(grown["head"])["looks"]["0"]
    assert np.abs(gradient["correct"]["kernel"]).max() > 0


def test_fewer_looks_take_those_of_the_same_number(tmp_path):
    found, _ = looks_from(warp_network((4, 4), (1, 4)), warp_network((4, 4)), tmp_path)
    assert not found.left
    assert not found.widened
    assert found.share == 1.0


def test_a_look_that_takes_more_pixels_as_one_position_starts_afresh(tmp_path):
    old, new = warp_network((1, 4)), warp_network((1, 4), trunk_scale=4)
    found, own = looks_from(old, new, tmp_path)
    # 2 × 2 pixels there, 4 × 4 here: the outputs of one pixel are not those of another.
    assert {"head/looks/0/read/kernel", "head/looks/0/correct/kernel"} <= set(found.left)
    look = found.params["head"]["looks"]["0"]
    np.testing.assert_array_equal(look["correct"]["kernel"], own["0"]["correct"]["kernel"])
    assert not any(name.startswith("head/looks/") for name in found.widened)


def test_a_narrower_decoder_starts_afresh(saved):
    path, _ = saved
    narrower = dataclasses.replace(EIGHT, decoder_widths=(2, 2, 1, 1, 1))
    found = warm_start(flavr.init(narrower, jax.random.key(2)), path)
    assert not found.widened
    assert "decoder/stages/0/conv/kernel" in found.left


def test_a_classifier_takes_the_encoder(saved):
    path, params = saved
    own = classifier.init(ClassifierConfig(5, EIGHT), jax.random.key(2))
    found = warm_start(own, path)
    assert set(found.left) == {"head", "head_bias"}
    np.testing.assert_array_equal(
        found.params["encoder"]["layer4"]["1"]["conv2"]["kernel"],
        params["encoder"]["layer4"]["1"]["conv2"]["kernel"],
    )


def test_a_checkpoint_of_which_nothing_fits_is_refused(saved):
    with pytest.raises(ValueError, match=r"nothing in .* fits.*same `width`"):
        warm_start({"other": {"kernel": np.zeros(3)}}, saved[0])
