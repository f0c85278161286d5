# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint
from flavr_jax.config import ModelConfig
from flavr_jax.inference import interpolator as interpolators
from flavr_jax.inference import programs, tiles
from flavr_jax.inference.computation import Computation, NonFiniteError
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.models import flavr
from flavr_jax.video.pixels.colour import Colour, conversion

pytestmark = pytest.mark.usefixtures("definition")


def test_predict_is_the_raw_network(random_network):
    windows = jax.random.uniform(jax.random.key(2), (3, 4, 16, 24, 3))
    params = flavr.init(random_network.config, jax.random.key(0))
    expected = jax.jit(flavr.apply, static_argnums=0)(random_network.config, params, windows)
    assert np.abs(random_network.predict(windows) - expected).max() < 1e-5


# Each padded size and batch is compiled: these share theirs with each other and the tests around.
@pytest.mark.parametrize(("height", "width"), [(9, 20), (1, 1), (8, 7)])
def test_any_size_is_padded_by_its_border_and_cropped_back(random_network, height, width):
    windows = jax.random.uniform(jax.random.key(2), (1, 4, height, width, 3))
    rows, columns = -height % 8, -width % 8
    padded = np.pad(windows, ((0, 0), (0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    expected = random_network.predict(padded)[:, :, :height, :width]
    actual = random_network.predict(windows)
    assert actual.shape == (1, 7, height, width, 3)
    assert np.abs(actual - expected).max() < 1e-5


def test_a_sample_does_not_depend_on_its_batch(random_network):
    windows = jax.random.uniform(jax.random.key(2), (3, 4, 16, 24, 3))
    together = random_network.predict(windows)
    assert together.shape[0] == 3
    for i in range(3):
        alone = random_network.predict(windows[i : i + 1])
        assert np.abs(together[i] - alone[0]).max() < 1e-5


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_one_network_makes_every_factor_that_divides_its_own(blending_network, clip, factor):
    frames = clip(5)
    result = blending_network(frames, factor)
    assert result.shape == (4 * factor + 1, *frames.shape[1:])
    for i in range(4):
        for k in range(factor):
            first, second = frames[i].astype(np.float64), frames[i + 1].astype(np.float64)
            expected = first + (second - first) * k / factor
            assert np.abs(result[i * factor + k] - expected).max() <= 0.5 + 1e-3


def test_larger_factors_are_made_by_passing_the_result_through_again(blending_network, clip):
    frames = clip(3)
    result = blending_network(frames, 16)
    assert result.shape[0] == 2 * 16 + 1
    blended = frames[0] + (frames[1].astype(np.float64) - frames[0]) * 5 / 16
    assert np.abs(result[5] - blended).max() <= 1.0  # rounded twice


def test_factors_that_cannot_be_made_are_refused_with_those_that_can(random_network, clip):
    for factor in (3, 6, 12, 0, -8):
        with pytest.raises(ValueError, match=f"`factor` is {factor}.*2, 4, 8, 16"):
            random_network(clip(2), factor)
    assert random_network.passes(1) == []
    assert random_network.passes(64) == [8, 8]
    assert random_network.passes(16) == [8, 2]


def test_a_network_of_two_frames_makes_thirds(clip):
    config = ModelConfig(width=1, n_outputs=2)
    network = Interpolator(config, flavr.init(config, jax.random.key(0)))
    assert network(clip(3), 3).shape[0] == 7
    assert network.passes(9) == [3, 3]
    with pytest.raises(ValueError, match="use 3, 9"):
        network.passes(2)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(random_network, frames):
    with pytest.raises((ValueError, TypeError)):
        random_network(frames, 2)


def test_load_gives_the_saved_network_in_the_precision_asked_for(tmp_path, random_network):
    params = flavr.init(random_network.config, jax.random.key(0))
    checkpoint.save(tmp_path / "a", random_network.config, params, provenance={"a": 1})
    windows = jax.random.uniform(jax.random.key(2), (1, 4, 16, 16, 3))
    loaded = flavr_jax.load(tmp_path / "a")
    assert loaded.provenance == {"a": 1}
    expected = random_network.predict(windows)
    assert np.array_equal(loaded.predict(windows), expected)
    half = flavr_jax.load(tmp_path / "a", precision="bf16")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half._params))
    assert 0 < np.abs(half.predict(windows) - expected).max() < 0.05


def test_programs_are_kept_unless_the_user_chose_a_folder(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        interpolators.load()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
        jax.config.update("jax_compilation_cache_dir", None)
        interpolators.load()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "flavr_jax" / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("split", [False, True])
def test_a_loaded_network_keeps_its_programs_for_the_next_run(tmp_path, clip, monkeypatch, split):
    before = jax.config.jax_compilation_cache_dir
    if split:  # as on a GPU
        monkeypatch.setattr(programs, "_SPLIT_FOR", ("cpu",))
    config = ModelConfig(width=1, n_outputs=1)
    checkpoint.save(tmp_path / "a", config, flavr.init(config, jax.random.key(0)), provenance={})
    told = []
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        results = []
        for _ in range(2):
            network = flavr_jax.load(tmp_path / "a")
            network.on_compile = lambda *size: told.append(size)
            results.append(np.asarray(network.between(clip(4), 2)))
            results.append(np.asarray(network.between(clip(4), 2)))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert told == [(14, 9, None)]
    assert len(list((tmp_path / "cache" / "whole").glob("*.program"))) == 1 + split
    assert all(np.array_equal(results[0], other) for other in results[1:])


class FullDevice:
    """A stand-in for a device that holds only some windows; it makes the real frames of those."""

    def __init__(self, monkeypatch, fits):
        self.tried, compute = [], programs.between

        def between(config, params, rows, *arguments, tiling, **options):
            intervals = len(rows) - config.n_inputs + 1
            self.tried.append((intervals, tiling))
            if not fits(intervals, tiling):
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating …")
            # Whole frames in place of stripes, which take longer to compile.
            return compute(config, params, rows, *arguments, tiling=tiles.WHOLE, **options)

        monkeypatch.setattr(programs, "between", between)


@pytest.fixture
def network():
    config = ModelConfig(width=2, n_outputs=1, base="warp", trunk_scale=2)
    return Interpolator(config, flavr.init(config, jax.random.key(0)))


def test_few_intervals_are_computed_with_the_program_of_a_whole_batch(network, clip, monkeypatch):
    frames = clip(4, 64, 16)
    alone = np.asarray(network.between(frames, 2)).astype(int)
    device = FullDevice(monkeypatch, lambda intervals, tiling: True)
    filled_up = np.asarray(network.between(frames, 2, 3))
    assert device.tried == [(4, tiles.WHOLE)]  # sizes are powers of two
    assert filled_up.shape == alone.shape == (1, 1, *frames.shape[1:])
    assert np.abs(filled_up - alone).max() <= 1


def test_no_number_of_leftover_intervals_has_to_be_compiled(network, clip):
    frames, planes = clip(7, 64, 16), conversion("yuv420p", Colour(), 64)
    whole = network.between(frames, 2, 4)
    expected = np.asarray(whole), whole.fetched(planes)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    for count in (1, 2, 3):
        made = network.between(frames[: count + 3], 2, 4)
        assert np.asarray(made).shape[0] == count
        np.testing.assert_array_equal(made, expected[0][:count])
        np.testing.assert_array_equal(made.fetched(planes)[:count], expected[1][:count])
    assert not compiled
    jnp.sort(jnp.arange(count + 7.0))  # a program of its own: compilations are noticed
    assert compiled


def test_nan_in_intervals_that_only_fill_a_batch_up_is_no_error(network, clip):
    made = network.between(clip(5, 64, 16), 2, 4)
    partly = dataclasses.replace(made, finite=jnp.array([True, True, False, False]))
    partly.wait()
    with pytest.raises(NonFiniteError, match="interval 1"):
        dataclasses.replace(made, finite=jnp.array([True, False, True, True])).wait()


def test_a_device_out_of_memory_gets_smaller_batches_and_then_stripes(
    network, clip, monkeypatch, caplog
):
    frames = clip(7, 512, 16)
    expected = [np.asarray(network.between(frames[n : n + 4], 2))[0] for n in range(4)]
    device = FullDevice(monkeypatch, lambda intervals, tiling: tiling.stripes >= 2)
    made = np.asarray(network.between(frames, 2))
    np.testing.assert_array_equal(made, expected)
    assert device.tried[:3] == [(4, tiles.WHOLE), (2, tiles.WHOLE), (1, tiles.WHOLE)]
    assert [line.getMessage() for line in caplog.records] == [
        "The device ran out of memory; going on with batches of 2.",
        "The device ran out of memory; going on with batches of 1.",
        f"The device ran out of memory; going on with {network.tiling}.",
    ]
    device.tried.clear()
    network.between(frames, 2)  # what is known to fail is not tried again
    assert device.tried == [(1, network.tiling)] * 4


def test_memory_that_runs_out_while_frames_are_computed_is_noticed_when_they_are_fetched(
    network, clip, monkeypatch
):
    frames = clip(5, 64, 16)
    expected = np.asarray(network.between(frames, 2))
    first, second = network.between(frames, 2), network.between(frames, 2)
    wait = Computation.wait

    def fail(made):
        if made.finite is first.finite or made.finite is second.finite:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        wait(made)

    monkeypatch.setattr(Computation, "wait", fail)
    np.testing.assert_array_equal(first.settled().frames, expected)
    # The second one failed for the same reason, so the batch is not halved again.
    np.testing.assert_array_equal(second.settled().frames, expected)
    assert network._most == 1


def test_frames_that_no_division_makes_fit_are_explained(network, clip, monkeypatch):
    FullDevice(monkeypatch, lambda intervals, tiling: False)
    with pytest.raises(MemoryError, match="16×64 pixels do not fit"):
        network.between(clip(4, 64, 16), 2)


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory(network, clip, monkeypatch):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(programs, "between", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        network.between(clip(4), 2)
