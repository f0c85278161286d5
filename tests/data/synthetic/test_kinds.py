# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data.synthetic import cartoons, kinds


def test_clips_are_of_each_kind_at_its_share():
    shares = kinds.Shares(cartoon=0.5, slow=0.0, dark=1.0)
    draw = jax.jit(jax.vmap(lambda key: kinds.random_kind(key, shares)))
    drawn = jax.device_get(draw(jax.random.split(jax.random.key(0), 1000)))
    for name, share in dataclasses.asdict(shares).items():
        assert getattr(drawn, name).mean() == pytest.approx(share, abs=0.06), name
    assert (drawn.hold[~drawn.cartoon] == 1).all()
    assert set(drawn.hold[drawn.cartoon]) == {1, 2, 3}
    assert (drawn.grain > 0).sum() == drawn.noise.sum()
    assert drawn.light.max() <= 0.35


def test_most_clips_are_of_no_special_kind_by_default():
    assert np.prod([1 - share for share in dataclasses.astuple(kinds.Shares())]) > 0.5


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"`shares\.dark` is .* from 0 to 1"):
        kinds.Shares(dark=share)


@pytest.mark.parametrize(
    ("hold", "phase", "expected"),
    [
        (1, 0.7, [0, 1, 2, 3]),
        (2, 0.0, [1, 1, 2, 2]),
        (2, 0.5, [0.5, 1.5, 1.5, 2.5]),
        (3, 0.0, [1.25, 1.25, 1.25, 2.25]),
        (3, 0.4, [1, 1, 2, 2]),
        (3, 0.9, [0.75, 1.75, 1.75, 1.75]),
    ],
)
def test_drawings_are_held_and_the_next_is_an_interval_further(hold, phase, expected):
    clock = kinds.held(jnp.int32(hold), jnp.float32(phase))
    np.testing.assert_allclose(clock, expected, atol=1e-6)


def test_clocks_are_linear_between_inputs_and_beyond():
    clock = jnp.array([0.0, 1.0, 1.0, 3.0])
    times = jnp.array([-1.0, 0.5, 1.0, 1.7, 2.0, 2.5, 3.0, 4.0])
    np.testing.assert_allclose(kinds.read(clock, times), [-1, 0.5, 1, 1, 1, 2, 3, 5], atol=1e-6)
    slow = kinds.slowed(clock, jnp.float32(0.1))
    np.testing.assert_allclose(slow, [1.35, 1.45, 1.45, 1.65], atol=1e-6)


def test_noise_is_near_normal_and_uncorrelated():
    times = jnp.array([0.0, 1.0, 1.0])
    noise = np.asarray(kinds.grain(jnp.uint32(7), times, (96, 128)))
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    assert (noise**4).mean() == pytest.approx(2.7, abs=0.1)  # of a sum of four uniform values
    np.testing.assert_array_equal(noise[1], noise[2])
    pairs = [
        (noise[0], noise[1]),
        (noise[0, 1:], noise[0, :-1]),
        (noise[0, :, 1:], noise[0, :, :-1]),
        (noise[0, ..., 0], noise[0, ..., 1]),
        (noise[0], np.asarray(kinds.grain(jnp.uint32(8), times[:1], (96, 128)))[0]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_cartoons_have_a_few_colours_with_dark_lines_between_them():
    x, y = jnp.meshgrid(jnp.linspace(-3, 3, 96), jnp.linspace(-3, 3, 96))
    fields = jnp.stack([x, jnp.sin(y)])
    paint = jax.jit(jax.vmap(lambda key: cartoons.paint(key, fields, jnp.float32(3.0))))
    colours, ink = map(np.asarray, paint(jax.random.split(jax.random.key(0), 16)))
    assert ink.max() <= 0.2
    outlined = 0
    for picture, dark in zip(colours, ink):
        found, counts = np.unique(picture.reshape(-1, 3).round(4), axis=0, return_counts=True)
        main = found[np.argsort(counts)[-7:]]  # six colours and the ink's
        assert np.sort(counts)[-7:].sum() > 0.8 * 96 * 96
        outlined += np.isclose(main, dark, atol=1e-4).all(axis=1).any()
    assert 3 <= outlined <= 13  # half of the textures
