# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data import augment, mixture
from flavr_jax.data.synthetic import scenes
from flavr_jax.training import inputs
from flavr_jax.training.inputs import ReadConfig
from flavr_jax.training.parallel import Parallel

pytest.importorskip("grain", reason="reading data sets is an extra")

PLAIN = augment.AugmentConfig(
    flips=False, turns=False, reversal=False, contrast=0.0, brightness=0.0, balance=0.0
)
MIX = mixture.MixtureConfig(
    crop=16,
    batch_size=4,
    synthetic_share=0.5,
    synthetic=scenes.SyntheticConfig(texture_size=24, n_objects=1),
    augment=PLAIN,
)


@dataclasses.dataclass(frozen=True)
class Counting:
    """A clip whose frame n is plain of colour n."""

    name: str
    length: int = 17

    def __len__(self):
        return self.length

    def read(self, index):
        return np.full((20, 24, 3), index, np.uint8)

    def encoded(self, index):
        raise NotImplementedError


CLIPS = tuple(Counting(str(number)) for number in range(3))
READ = inputs.Read(3, CLIPS, ReadConfig(spacings=(2,), threads=1), MIX, seed=1)


@pytest.fixture(scope="module")
def batch():
    """Of four windows two are read and two are synthetic."""
    fetched = jax.device_put(next(READ.feed(Parallel("shard_map"))))
    return jax.jit(lambda key, fetched: READ.batch(key, jnp.int32(0), 1, fetched, None))(
        jax.random.key(0), fetched
    )


def test_read_windows_stand_beside_synthetic_ones_and_know_the_middle_alone(batch):
    assert batch.inputs.shape == (4, 4, 16, 16, 3)
    np.testing.assert_array_equal(batch.weights, [[1, 3, 1]] * 2 + [[0, 3, 0]] * 2)
    colours = np.round(255 * np.asarray(batch.inputs[2:, :, 0, 0, 0])).astype(int)
    np.testing.assert_array_equal(np.diff(colours, axis=1), np.full((2, 3), 2))
    middle = np.round(255 * np.asarray(batch.targets[2:, 1, 0, 0, 0])).astype(int)
    np.testing.assert_array_equal(middle, colours[:, 1] + 1)


def test_a_feed_goes_on_where_its_state_was_taken():
    feed = READ.feed(Parallel())
    next(feed)
    state = feed.get_state()
    expected = [jax.device_get(next(feed)) for _ in range(2)]
    other = READ.feed(Parallel())
    other.set_state(state)
    for one in expected:
        for a, b in zip(one, jax.device_get(next(other)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_validation_sees_other_clips_than_training():
    many = dataclasses.replace(READ, clips=tuple(Counting(str(n), 7 + n) for n in range(60)))
    kept = {clip.name for clip in many._clips(True)}
    assert kept == {"0", "50"}
    assert kept.isdisjoint(clip.name for clip in many._clips(False))


def test_a_share_that_does_not_divide_is_refused():
    odd = dataclasses.replace(READ, config=dataclasses.replace(MIX, synthetic_share=0.25))
    fetched = [np.zeros((1, n, 16, 16, 3), np.uint8) for n in (4, 3)] + [np.zeros((1, 3), "f4")]
    window = mixture.Window(*fetched)
    with pytest.raises(ValueError, match=r"`synthetic_share` is 0.25.* do not divide into 2 parts"):
        jax.eval_shape(lambda key: odd.batch(key, jnp.int32(0), 2, window, None), jax.random.key(0))
