# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.training import compact
from flavr_jax.training.optimizers import OptimizerConfig, optimizer
from flavr_jax.training.state import create

RNG = np.random.default_rng(0)
SHAPES = {"encoder": {"kernel": (3, 3, 7, 40), "bias": (40,)}, "decoder": {"kernel": (1, 1500, 3)}}


def random(scale):
    return jax.tree.map(
        lambda shape: jnp.asarray(scale(RNG.standard_normal(shape)), jnp.float32),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


@pytest.fixture(scope="module")
def state():
    """Moments of a late step: gradients of very different size next to each other."""
    params = random(lambda x: 0.05 * x)
    fresh = create(params, OptimizerConfig(), seed=3)
    second = random(lambda x: np.exp2(-20 + 5 * x))
    second["encoder"]["bias"] = jnp.zeros(40)
    first = jax.tree.map(lambda v: 0.3 * jnp.sqrt(v) * RNG.uniform(-1, 1, v.shape), second)
    adam = next(part for part in fresh.moments if hasattr(part, "mu"))
    moments = tuple(
        part._replace(mu=first, nu=second) if part is adam else part for part in fresh.moments
    )
    average = jax.tree.map(lambda p: p + 1e-4 * RNG.standard_normal(p.shape), params)
    return dataclasses.replace(
        fresh, step=jnp.int32(777), average=average, moments=moments, skipped=jnp.int32(2)
    )


@pytest.fixture(scope="module")
def restored(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compact") / "state"
    compact.export(folder, state, {"elapsed": 12.5, "feed": {"next": 3}})
    return compact.load(folder, jax.tree.map(jnp.zeros_like, state))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_counters_and_plain_values_come_back_exactly(state, restored):
    found, host = restored
    assert (int(found.step), int(found.skipped)) == (777, 2)
    np.testing.assert_array_equal(found.key, state.key)
    assert host == {"elapsed": 12.5, "feed": {"next": 3}}


def test_parameters_come_back_to_16_bits_and_their_average_to_8_of_the_difference(state, restored):
    largest = np.abs(flat(state.params)).max()
    error = np.abs(flat(restored[0].params) - flat(state.params))
    assert error.max() <= 0.5 * largest / 32767 * 1.01
    gap = flat(state.average) - flat(state.params)
    error = np.abs(flat(restored[0].average) - flat(state.average))
    assert error.max() <= 0.5 * np.abs(gap).max() / 127 * 1.05


def test_the_next_update_is_the_same_to_a_few_percent_of_the_learning_rate(state, restored):
    def update(of):
        adam = next(part for part in of.moments if hasattr(part, "mu"))
        return flat(adam.mu) / (np.sqrt(flat(adam.nu)) + 1e-8)

    exact, found = update(state), update(restored[0])
    assert np.abs(exact).max() > 0.29
    assert np.abs(found - exact).max() < 0.03
    assert np.isfinite(found).all()


def test_a_second_moment_of_zero_stays_zero(restored):
    adam = next(part for part in restored[0].moments if hasattr(part, "nu"))
    assert not adam.nu["encoder"]["bias"].any()


def test_ten_million_parameters_take_less_than_sixty_megabytes_in_parts(tmp_path, monkeypatch):
    # A tenth of the default network's parameters, and parts of a tenth of the size.
    monkeypatch.setattr(compact, "_PART_BYTES", compact._PART_BYTES // 10)
    like = create({"kernel": jnp.ones(1_050_000)}, OptimizerConfig(), seed=0)
    size = compact.export(tmp_path / "state", like, {})
    files = list((tmp_path / "state").iterdir())
    assert 10 * size < 60e6
    assert size == sum(path.stat().st_size for path in files)
    assert len(files) <= 8


def test_a_state_of_another_size_or_with_a_lost_part_is_refused(state, tmp_path):
    compact.export(tmp_path / "state", state, {})
    other = create({"kernel": jnp.ones(9)}, OptimizerConfig(), seed=0)
    with pytest.raises(ValueError, match="state of another network"):
        compact.load(tmp_path / "state", other)
    part = tmp_path / "state" / "part-000.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match="copy all of its files again"):
        compact.load(tmp_path / "state", state)
    with pytest.raises(FileNotFoundError, match="--export-state"):
        compact.load(tmp_path, state)


def test_muons_state_has_no_second_moment_of_kernels_and_comes_back(tmp_path):
    params = random(lambda x: 0.05 * x)
    config = OptimizerConfig("muon")
    state = create(params, config, seed=3)
    gradient = random(lambda x: np.exp2(-10) * x)
    _, moments = optimizer(config).update(gradient, state.moments, params)
    state = dataclasses.replace(state, moments=moments)
    compact.export(tmp_path / "state", state, {})
    found, _ = compact.load(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(found.moments), jax.tree.leaves(moments), strict=True):
        largest = np.abs(np.asarray(other, np.float32)).max()
        np.testing.assert_allclose(one, other, atol=0.05 * largest)
    full, plain = (
        compact.export(tmp_path / kind, create(params, OptimizerConfig(kind), seed=3), {})
        for kind in ("adam", "muon")
    )
    assert plain < 0.85 * full
