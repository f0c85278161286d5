# SPDX-License-Identifier: Apache-2.0
"""The network that magnifies motion: what it computes from given flow, weights and factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, magnifier
from flavr_jax.models.magnifier import MagnifierConfig

pytestmark = pytest.mark.usefixtures("definition", "shallow")

CONFIG = MagnifierConfig(model=ModelConfig(width=2))


@pytest.fixture(scope="module")
def params():
    return magnifier.init(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def windows():
    return jax.random.uniform(jax.random.key(1), (1, 4, 16, 24, 3))


def with_outputs(params, bias):
    """Parameters for which the raw outputs are the same at every pixel."""
    out = {"kernel": jnp.zeros_like(params["out"]["kernel"]), "bias": jnp.asarray(bias)}
    return {**params, "out": out}


def run(params, windows, factor):
    return np.asarray(magnifier.apply(CONFIG, params, windows, jnp.array([factor])))


def test_without_flow_frames_are_averaged(params, windows):
    made = run(with_outputs(params, np.zeros(15, np.float32)), windows, 7.0)
    np.testing.assert_allclose(made[:, 0], windows.mean(axis=1), atol=1e-6)


def test_flow_grows_with_the_factor(params, windows):
    bias = np.zeros(15, np.float32)
    bias[3 + 2 * 2] = 1.0  # half a pixel to the right in the third frame
    bias[11:] = [-40, -40, 40, -40]  # and only that frame counts
    made = run(with_outputs(params, bias), windows, 8.0)[0, 0]
    np.testing.assert_allclose(made[:, :-4], windows[0, 2, :, 4:], atol=1e-5)


def test_the_factor_is_seen_by_the_network(params, windows):
    small, large = (run(params, windows, factor) for factor in (1.0, 30.0))
    assert np.abs(small - large).max() > 1e-6


def test_a_checkpoint_comes_back_and_is_told_from_others(params, tmp_path):
    checkpoint.save(tmp_path / "one", CONFIG, params, provenance={"steps": 3})
    config, loaded, provenance = checkpoint.load_magnifier(tmp_path / "one")
    assert (config, provenance) == (CONFIG, {"steps": 3})
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(ValueError, match="flavr magnify"):
        checkpoint.load(tmp_path / "one")
    checkpoint.save(tmp_path / "two", CONFIG.model, flavr.init(CONFIG.model, jax.random.key(0)))
    with pytest.raises(ValueError, match=r"configs/magnify\.toml"):
        checkpoint.load_magnifier(tmp_path / "two")


def test_settings_that_make_no_network_are_explained():
    with pytest.raises(ValueError, match="largest_factor"):
        MagnifierConfig(largest_factor=0.5)
    with pytest.raises(ValueError, match="trunk_scale"):
        MagnifierConfig(model=ModelConfig(trunk_scale=2))
