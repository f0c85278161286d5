# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
from flavr_jax.models.presets import PRESETS

pytestmark = pytest.mark.usefixtures("definition")


def random_windows(config: ModelConfig, height: int = 16, width: int = 24) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (2, config.n_inputs, height, width, 3))


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("flavr_2x", 42_061_571),
        ("flavr_4x", 42_084_297),
        ("flavr_8x", 42_121_941),
        ("flavr_2x_34", 72_926_787),
    ],
)
def test_presets_have_the_parameters_of_the_official_models(preset, count):
    leaves = jax.tree.leaves(flavr.parameter_shapes(PRESETS[preset]))
    assert sum(leaf.size for leaf in leaves) == count


def test_factorised_convolutions_have_about_as_many_parameters_as_whole_ones():
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(flavr.parameter_shapes(config)["encoder"]))
        for config in (ModelConfig(), ModelConfig(encoder="r2plus1d"))
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.1)


def test_a_network_without_output_leaves_the_blend_of_the_middle_frames():
    config = ModelConfig(width=4, n_outputs=3, base="blend")
    params = flavr.init(config, jax.random.key(0))
    params["out"] = jax.tree.map(jnp.zeros_like, params["out"])
    windows = random_windows(config)
    outputs = jax.jit(flavr.apply, static_argnums=0)(config, params, windows)
    for k in (1, 2, 3):
        expected = windows[:, 1] * (1 - k / 4) + windows[:, 2] * (k / 4)
        assert np.abs(outputs[:, k - 1] - expected).max() < 1e-6


def test_brightness_passes_through():
    # The mean colour is taken off and added back, so a brighter window gives as much brighter
    # frames.
    config = ModelConfig(width=4)
    params = flavr.init(config, jax.random.key(0))
    windows = random_windows(config) * 0.5
    apply = jax.jit(flavr.apply, static_argnums=0)
    shifted = apply(config, params, windows + 0.25)
    assert np.abs(shifted - (apply(config, params, windows) + 0.25)).max() < 1e-5


def test_the_parameters_dtype_is_the_computations():
    config = ModelConfig(width=4)
    params = flavr.init(config, jax.random.key(0))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    windows = random_windows(config)
    apply = jax.jit(flavr.apply, static_argnums=0)
    exact, rounded = apply(config, params, windows), apply(config, half, windows)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(exact - rounded).max() < 2e-2
    text = jax.jit(flavr.apply, static_argnums=0).lower(config, half, windows).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    # Their operands: the last one adds up and returns float32.
    assert all("xf32>" not in line.split("->")[0] for line in convolutions)


def test_batch_norm_learns_its_statistics_in_training_mode_only():
    model = flavr.FLAVR(ModelConfig(width=4, batch_norm=True), rngs=nnx.Rngs(0))
    windows = random_windows(model.config)
    before = np.asarray(model.encoder.stem_norm.mean[...])
    nnx.jit(lambda model: model(windows))(model)
    assert np.array_equal(before, model.encoder.stem_norm.mean[...])
    model.train()
    nnx.jit(lambda model: model(windows))(model)
    assert not np.array_equal(before, model.encoder.stem_norm.mean[...])


def test_windows_that_do_not_fit_are_explained():
    config = ModelConfig(width=4)
    params = flavr.init(config, jax.random.key(0))
    with pytest.raises(ValueError, match=r"has 2 frames.*`n_inputs` = 4"):
        flavr.apply(config, params, jnp.zeros((1, 2, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"20×16 pixels.*multiples of 8"):
        flavr.apply(config, params, jnp.zeros((1, 4, 16, 20, 3)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_inputs": 1}, "`n_inputs` is 1"),
        ({"n_outputs": 0}, "`n_outputs` is 0"),
        ({"width": 0}, "`width` is 0"),
        ({"decoder_widths": (4, 2, 1, 1)}, r"`decoder_widths` is \[4, 2, 1, 1\].*five stages"),
        ({"decoder_widths": (4, 2, 0, 1, 1)}, "at least 1 × `width`"),
        ({"decoder_widths": (4, 2, 1, 1, 2)}, "the last of just that"),
        ({"decoder_widths": (8, 2, 1, 1, 1), "join": "add"}, "`join = 'add'` needs as many"),
        ({"n_inputs": 3, "base": "blend"}, "even number of inputs"),
    ],
)
def test_settings_that_make_no_network_are_explained(values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ModelConfig(), **values)
