# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.data import augment, clip_bank, mixture, pipeline
from flavr_jax.data.synthetic import rendered, scenes

CONFIG = mixture.MixtureConfig(
    crop=16,
    batch_size=4,
    synthetic_share=0.5,
    middle_weight=3.0,
    synthetic=scenes.SyntheticConfig(texture_size=24, n_objects=1),
)


@pytest.fixture(autouse=True)
def plain_synthetic_clips(monkeypatch):
    """Stand-in for drawn clips, of one grey level for each key: the real ones compile slowly."""

    def draw_many(keys, times, size, config, textures, photographs):
        levels = jax.vmap(jax.random.uniform)(keys)[:, None, None, None, None]
        return jnp.broadcast_to(levels, (len(keys), times.shape[1], *size, 3))

    monkeypatch.setattr(scenes, "draw_many", draw_many)


def test_half_a_batch_is_synthetic_and_fully_known_the_rest_is_real_and_masked():
    frames = jnp.full((30, 24, 40, 3), 77, jnp.uint8)
    one_row = (jnp.array([value], jnp.int32) for value in (0, 30, 40, 4))
    real = mixture.RealClips(frames, clip_bank.SamplingTable(*one_row, log_weight=jnp.zeros(1)))
    batch = jax.jit(lambda key, real: mixture.draw(key, 7, CONFIG, real))(jax.random.key(0), real)
    assert batch.inputs.shape == (4, 4, 16, 16, 3)
    assert batch.targets.shape == (4, 7, 16, 16, 3)
    np.testing.assert_array_equal(batch.weights[:2], np.tile([1, 1, 1, 3, 1, 1, 1], (2, 1)))
    np.testing.assert_array_equal(batch.weights[2:], np.tile([0, 1, 0, 3, 0, 1, 0], (2, 1)))


def test_without_clips_all_is_synthetic_and_parts_are_together_the_whole_batch():
    draw = jax.jit(
        lambda key, part, parts: mixture.draw(key, 1, CONFIG, None, part=part, parts=parts),
        static_argnums=2,
    )
    whole = draw(jax.random.key(0), 0, 1)
    assert whole.targets.shape == (4, 1, 16, 16, 3)
    np.testing.assert_array_equal(whole.weights, 3.0)
    parts = [draw(jax.random.key(0), part, 2) for part in range(2)]
    together = jax.tree.map(lambda *of: jnp.stack(of, 1).reshape(4, *of[0].shape[1:]), *parts)
    np.testing.assert_allclose(together.inputs, whole.inputs, atol=1e-6)
    np.testing.assert_allclose(together.targets, whole.targets, atol=1e-6)


def test_parts_of_a_batch_of_real_windows_are_together_the_whole():
    frames = jax.random.randint(jax.random.key(1), (40, 20, 30, 3), 0, 256).astype(jnp.uint8)
    one_row = (jnp.array([value], jnp.int32) for value in (0, 40, 30, 8))
    real = mixture.RealClips(frames, clip_bank.SamplingTable(*one_row, log_weight=jnp.zeros(1)))
    config = dataclasses.replace(CONFIG, crop=8, batch_size=6, synthetic_share=0.0)
    draw = jax.jit(
        lambda part, parts: mixture.draw(
            jax.random.key(0), 2, config, real, part=part, parts=parts
        ),
        static_argnums=1,
    )
    whole, parts = draw(0, 1), [draw(part, 3) for part in range(3)]
    for number, part in enumerate(parts):  # one window after another, to each part in turn
        for mine, every in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(mine, every[number::3], atol=1e-6)
    # Thirds of an interval of 8 frames were not filmed.
    np.testing.assert_array_equal(whole.weights, np.zeros((6, 2)))


@pytest.mark.parametrize(("n_outputs", "weights"), [(1, [3]), (2, [1, 1]), (3, [1, 3, 1])])
def test_only_an_odd_number_of_targets_has_one_in_the_middle(n_outputs, weights):
    batch = mixture.draw(jax.random.key(0), n_outputs, CONFIG, None)
    np.testing.assert_array_equal(batch.weights, np.tile(weights, (4, 1)))


def test_the_share_of_rendered_windows_is_a_setting(monkeypatch):
    def draw_many(keys, times, size, config, textures, photographs):
        return jnp.full((len(keys), times.shape[1], *size, 3), 0.77)

    monkeypatch.setattr(rendered, "draw_many", draw_many)
    config = dataclasses.replace(CONFIG, rendered_share=0.5)
    batch = mixture.draw(jax.random.key(0), 3, config, None)
    is_rendered = (np.asarray(batch.targets) == np.float32(0.77)).all(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(is_rendered, [True, True, False, False])
    np.testing.assert_array_equal(batch.weights, np.tile([1, 3, 1], (4, 1)))


def test_one_target_of_each_window_is_drawn_in_proportion_to_its_weight(monkeypatch):
    # Frames that show their own time, so that a target says which of the outputs it is.
    def draw_many(keys, times, size, config, textures, photographs):
        return jnp.broadcast_to(times[..., None, None, None], (*times.shape, *size, 3))

    monkeypatch.setattr(scenes, "draw_many", draw_many)
    levels = 80 + 2 * jnp.arange(30, dtype=jnp.uint8)
    frames = jnp.broadcast_to(levels[:, None, None, None], (30, 8, 8, 3))
    one_row = (jnp.array([value], jnp.int32) for value in (0, 30, 8, 4))
    real = mixture.RealClips(frames, clip_bank.SamplingTable(*one_row, log_weight=jnp.zeros(1)))
    plain = augment.AugmentConfig(reversal=False)
    config = dataclasses.replace(CONFIG, batch_size=800, crop=8, one_target=True, augment=plain)
    batch = jax.jit(lambda key: mixture.draw(key, 7, config, real))(jax.random.key(0))
    assert batch.inputs.shape == (800, 4, 8, 8, 3)
    assert batch.targets.shape == (800, 1, 8, 8, 3)
    np.testing.assert_array_equal(batch.weights, 1.0)
    outputs = np.asarray(batch.outputs)[:, 0]
    np.testing.assert_allclose(batch.targets[:400, 0, 0, 0, 0], 1 + (outputs[:400] + 1) / 8)
    shares = np.bincount(outputs[:400], minlength=7) / 400
    np.testing.assert_allclose(shares, np.array([1, 1, 1, 3, 1, 1, 1]) / 9, atol=0.07)
    # Every fourth frame is an input, so only outputs 1, 3 and 5 were filmed.
    shares = np.bincount(outputs[400:], minlength=7) / 400
    np.testing.assert_allclose(shares, np.array([0, 1, 0, 3, 0, 1, 0]) / 5, atol=0.07)
    before, after = batch.inputs[400:, 1, 0, 0, 0], batch.inputs[400:, 2, 0, 0, 0]
    place = (batch.targets[400:, 0, 0, 0, 0] - before) / (after - before)
    np.testing.assert_allclose(place, (outputs[400:] + 1) / 8, atol=0.03)


def test_reversal_turns_targets_and_their_weights_round_with_the_inputs():
    count = 64
    levels = np.array([0, 40, 80, 120, 50, 60, 70], np.uint8)[None, :, None, None, None]
    frames = np.broadcast_to(levels, (count, 7, 8, 8, 3))
    filmed = np.tile(np.float32([1, 0, 0.5]), (count, 1))
    window = pipeline.Window(frames[:, :4], frames[:, 4:], filmed)
    batch = mixture.from_windows(jax.random.key(0), window, CONFIG)
    shown = np.concatenate([batch.inputs, batch.targets], axis=1).mean(axis=(2, 3, 4))
    backwards = shown[:, 0] > shown[:, 3]
    assert 16 < backwards.sum() < 48
    for some, order, weights in (
        (~backwards, np.argsort(levels.ravel()), [1, 0, 0.5]),
        (backwards, np.argsort(levels.ravel())[::-1], [0.5, 0, 1]),
    ):
        # Frames show the times 0, 1, 1¼, …; brightness may be clipped at 0, but else grows.
        place = [0, 1, 4, 5, 6, 2, 3]
        inside = shown[some][:, place]
        grows = np.diff(inside if order[0] == 0 else inside[:, ::-1], axis=1)
        assert (grows[:, 1:] > 0).all()
        np.testing.assert_array_equal(batch.weights[some], np.tile(weights, (some.sum(), 1)))


def test_a_target_is_chosen_before_its_pixels_are_changed():
    frames = np.random.default_rng(0).integers(0, 256, (6, 11, 8, 8, 3), np.uint8)
    window = pipeline.Window(frames[:, :4], frames[:, 4:], np.ones((6, 7), np.float32))
    every = mixture.from_windows(jax.random.key(0), window, CONFIG)
    one = mixture.from_windows(
        jax.random.key(0), window, dataclasses.replace(CONFIG, one_target=True)
    )
    np.testing.assert_array_equal(one.inputs, every.inputs)
    chosen = np.asarray(one.outputs)[:, :, None, None, None]
    np.testing.assert_array_equal(one.targets, np.take_along_axis(every.targets, chosen, axis=1))


def test_a_window_without_a_filmed_target_has_no_weight():
    frames = np.zeros((2, 7, 8, 8, 3), np.uint8)
    window = pipeline.Window(frames[:, :4], frames[:, 4:], np.float32([[0, 0, 0], [0, 0, 1]]))
    config = dataclasses.replace(
        CONFIG, one_target=True, augment=augment.AugmentConfig(reversal=False)
    )
    batch = mixture.from_windows(jax.random.key(0), window, config)
    np.testing.assert_array_equal(batch.weights, [[0.0], [1.0]])
    assert int(batch.outputs[1, 0]) == 2


def test_windows_from_disk_become_a_batch_of_the_same_kind():
    levels = np.array([0, 40, 80, 120, 50, 60, 70], np.uint8)[None, :, None, None, None]
    frames = np.broadcast_to(levels, (3, 7, 8, 8, 3))
    filmed = np.tile(np.float32([1, 0, 1]), (3, 1))
    still = dataclasses.replace(CONFIG, augment=augment.AugmentConfig(reversal=False))
    batch = mixture.from_windows(
        jax.random.key(0), pipeline.Window(frames[:, :4], frames[:, 4:], filmed), still
    )
    np.testing.assert_array_equal(batch.weights, np.tile([1, 0, 1], (3, 1)))
    ratio = (batch.targets - batch.inputs[:, 1:2]) / (batch.inputs[:, 2:3] - batch.inputs[:, 1:2])
    expected = np.broadcast_to(np.array([0.25, 0.5, 0.75])[:, None, None, None], ratio.shape[1:])
    np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), atol=1e-3)
