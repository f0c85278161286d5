# SPDX-License-Identifier: Apache-2.0
"""Encoder, decoder and classifier: sizes, joins, recomputation, and what depends on what."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flavr_jax.config import ModelConfig
from flavr_jax.models import classifier, flavr
from flavr_jax.models.classifier import ClassifierConfig
from flavr_jax.models.decoder import Decoder
from flavr_jax.models.encoder import Encoder
from flavr_jax.models.layers import FeatureMap, LayerOptions

pytestmark = pytest.mark.usefixtures("definition")

SMALL = ModelConfig(width=4, n_outputs=3)


def windows(*, batch=1, time=4, height=16, width=24, seed=0):
    return jax.random.uniform(jax.random.key(seed), (batch, time, height, width, 3))


def shapes_of_features(config, frames):
    encoder = nnx.eval_shape(lambda: Encoder(config, LayerOptions(None)))
    return [x.values.shape for x in nnx.eval_shape(lambda m, x: m(x), encoder, frames)]


@pytest.mark.parametrize("encoder", ["r3d", "r2plus1d", "mc3"])
@pytest.mark.parametrize("depth", [18, 34])
@pytest.mark.parametrize("time", [2, 4, 6])
def test_the_encoder_keeps_every_frame_and_halves_pixels_three_times(encoder, depth, time):
    config = ModelConfig(width=4, encoder=encoder, depth=depth, n_inputs=time)
    frames = jax.ShapeDtypeStruct((2, time, 32, 48, 3), jnp.float32)
    assert shapes_of_features(config, frames) == [
        (2, time, 16, 24, 4),
        (2, time, 16, 24, 4),
        (2, time, 8, 12, 8),
        (2, time, 4, 6, 16),
        (2, time, 4, 6, 32),
    ]


@pytest.mark.parametrize("join", ["concat", "add", "none"])
@pytest.mark.parametrize("upsampling", ["transposed", "trilinear"])
def test_the_decoder_returns_to_full_size_with_the_networks_width(join, upsampling):
    config = ModelConfig(width=4, join=join, upsampling=upsampling)
    sizes = [(8, 12, 4), (8, 12, 4), (4, 6, 8), (2, 3, 16), (2, 3, 32)]
    features = tuple(FeatureMap(jax.ShapeDtypeStruct((1, 4, *size), jnp.float32)) for size in sizes)
    decoder = nnx.eval_shape(lambda: Decoder(config, LayerOptions(None)))
    out = nnx.eval_shape(lambda m, x: m(x), decoder, features)
    assert out.values.shape == (1, 4, 16, 24, 4)


@pytest.mark.parametrize("encoder", ["r3d", "mc3", "r2plus1d"])
def test_temporal_taps_are_where_the_kind_of_encoder_puts_them(encoder):
    shapes = flavr.parameter_shapes(ModelConfig(width=8, encoder=encoder))["encoder"]
    spans = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = [key.key for key in path]
        if len(leaf.shape) == 5 and "shortcut" not in names:
            spans.setdefault(names[0], set()).add(leaf.shape[:3])
    whole, flat = {(3, 3, 3)}, {(1, 3, 3)}
    expected = {
        "r3d": [{(3, 7, 7)}, whole, whole, whole, whole],
        "mc3": [{(3, 7, 7)}, whole, flat, flat, flat],
        "r2plus1d": [{(1, 7, 7), (3, 1, 1)}, *[{(1, 3, 3), (3, 1, 1)}] * 4],
    }[encoder]
    assert [spans[name] for name in ("stem", "layer1", "layer2", "layer3", "layer4")] == expected


@pytest.mark.parametrize(("n_outputs", "biased"), [(1, False), (3, True), (7, True)])
def test_encoder_convolutions_have_a_bias_in_networks_of_several_outputs(n_outputs, biased):
    shapes = flavr.parameter_shapes(ModelConfig(width=4, n_outputs=n_outputs))["encoder"]
    assert ("bias" in shapes["stem"]) == biased
    assert ("bias" in shapes["layer1"]["0"]["conv1"]) == biased
    assert "bias" in shapes["layer1"]["0"]["gate"]
    assert "bias" not in shapes["layer2"]["0"]["shortcut"]


@pytest.fixture(scope="module")
def network():
    params = flavr.init(SMALL, jax.random.key(0))
    return params, jax.jit(partial(flavr.apply, SMALL), static_argnames="outputs")


def test_samples_of_a_batch_do_not_see_each_other(network):
    params, apply = network
    both = windows(batch=2)
    alone = jnp.concatenate([apply(params, both[n : n + 1]) for n in range(2)])
    assert np.abs(apply(params, both) - alone).max() < 1e-5


@pytest.mark.parametrize("frame", range(4))
def test_every_input_frame_has_an_influence_on_every_output(network, frame):
    params, apply = network
    x = windows()
    changed = apply(params, x.at[:, frame, 8, 12].add(0.5)) - apply(params, x)
    assert (np.abs(changed).max(axis=(0, 2, 3, 4)) > 1e-6).all()


@pytest.mark.parametrize("outputs", [(0,), (2,), (0, 2), (2, 1, 0)])
def test_outputs_asked_for_are_those_of_all_in_the_order_asked_for(network, outputs):
    params, apply = network
    every = apply(params, windows())
    some = apply(params, windows(), outputs=outputs)
    assert np.abs(some - every[:, list(outputs)]).max() < 1e-6


def test_parameters_survive_the_way_through_names(network):
    params, _ = network
    rebuilt = flavr.to_dict(nnx.state(flavr.merged(SMALL, params, None)))
    assert jax.tree.structure(rebuilt) == jax.tree.structure(params)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (rebuilt, params))))
    shapes = flavr.parameter_shapes(SMALL)
    assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape, shapes
    )


def test_a_network_holds_the_parameters_that_it_was_merged_with(network):
    # The skeleton is cached; a second network must not take the first one's arrays.
    params, _ = network
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    first, second = (flavr.merged(SMALL, each, None) for each in (params, doubled))
    assert (first.out.kernel[...] == params["out"]["kernel"]).all()
    assert (second.out.kernel[...] == 2 * params["out"]["kernel"]).all()


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (64, 40)])
def test_the_mean_colour_is_the_mean_of_all_pixels_in_float32(size):
    # 64 partial sums, whatever the number of pixels.
    x = windows(batch=2, height=size[0], width=size[1])
    expected = np.asarray(x, np.float64).mean(axis=(1, 2, 3), keepdims=True)
    assert flavr.mean_colour(x).shape == (2, 1, 1, 1, 3)
    assert np.abs(flavr.mean_colour(x) - expected).max() < 1e-6


CLASSES = ClassifierConfig(n_classes=5, model=ModelConfig(width=4), dropout=0.5)


@pytest.fixture(scope="module")
def classify():
    params = classifier.init(CLASSES, jax.random.key(0))
    return params, jax.jit(partial(classifier.apply, CLASSES))


@pytest.mark.parametrize("time", [1, 4, 7])
def test_a_classifier_takes_clips_of_any_length(time):
    clips = jax.ShapeDtypeStruct((2, time, 16, 24, 3), jnp.float32)
    shapes = classifier.parameter_shapes(CLASSES)
    logits = jax.eval_shape(partial(classifier.apply, CLASSES), shapes, clips)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)


def test_a_classifier_takes_the_encoder_of_a_network_as_it_is():
    network = flavr.parameter_shapes(CLASSES.model)["encoder"]
    assert jax.tree.map(lambda a: a.shape, classifier.parameter_shapes(CLASSES)["encoder"]) == (
        jax.tree.map(lambda a: a.shape, network)
    )


def test_a_brighter_clip_has_the_same_classes(classify):
    params, apply = classify
    clip = 0.5 * windows()
    assert np.abs(apply(params, clip + 0.25) - apply(params, clip)).max() < 1e-5


def test_dropout_keeps_the_mean_and_is_off_without_a_key(classify):
    params, apply = classify
    clip = windows()
    plain = np.asarray(apply(params, clip))
    assert (np.asarray(apply(params, clip)) == plain).all()
    keys = jax.random.split(jax.random.key(1), 400)
    dropped = np.asarray(jax.vmap(lambda key: apply(params, clip, key))(keys))[:, 0]
    assert dropped.std(axis=0).min() > 0
    error = np.abs(dropped.mean(axis=0) - plain[0]) / (dropped.std(axis=0) / 400**0.5)
    assert error.max() < 4  # standard errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_classes": 1}, "`n_classes` is 1; a choice needs at least 2"),
        ({"dropout": 1.0}, "`dropout` is 1.0; it is a share below 1"),
        ({"dropout": -0.1}, "`dropout` is -0.1"),
    ],
)
def test_settings_that_make_no_classifier_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**values)
