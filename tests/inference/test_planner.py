# SPDX-License-Identifier: Apache-2.0
"""The plan: memory is known before a window is computed, and the limit is kept."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.inference import duration, interpolator, options, planner, programs
from flavr_jax.inference.tiles import WHOLE, Tiling
from flavr_jax.models import flavr
from flavr_jax.models.presets import PRESETS

GIB = 2**30
BUNDLED = PRESETS["default"]


def planned(height, width, limit, **options):
    return planner.plan(BUNDLED, "fp32", height, width, 8, limit=int(limit * GIB), **options)


@pytest.mark.parametrize(
    ("config", "tiling"),
    [(BUNDLED, WHOLE), (BUNDLED, Tiling(2)), (PRESETS["flavr_2x"], WHOLE)],
    ids=["bundled", "bundled in stripes", "paper"],
)
def test_expected_memory_is_that_of_the_compilers_plan(config, tiling):
    rows = (jax.ShapeDtypeStruct((720, 1280, 3), jnp.uint8),) * 4
    lowered = programs.between.lower(
        config, flavr.parameter_shapes(config), rows, factor=config.factor, tiling=tiling
    )
    analysis = lowered.compile().memory_analysis()
    actual = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    expected = planner.memory(config, "fp32", 720, 1280, config.factor, 1, tiling)
    assert 0.95 * actual < expected < 1.5 * actual


# Temporary and output memory of the compiler's plans for a CPU in float32, in GiB: the larger of
# those of jax 0.10.2 and 0.12.0, or of 0.12.0 alone for 2160 rows. Rows of "default" with three
# digits are the sixth version's (jax 0.12.0), the others the fifth's before its head had `warp`.
PLANS_FOR_A_CPU = [
    ("default", (256, 448), 4, 8, WHOLE, 0.623),
    ("default", (720, 1280), 1, 2, WHOLE, 0.353),
    ("default", (720, 1280), 1, 4, WHOLE, 0.598),
    ("default", (720, 1280), 1, 8, WHOLE, 1.043),
    ("default", (720, 1280), 1, 8, Tiling(2), 0.899),
    ("default", (1080, 1920), 1, 8, WHOLE, 2.81),
    ("default", (1080, 1920), 1, 8, Tiling(8, "all", 1), 0.952),
    ("default", (2160, 3840), 1, 8, Tiling(4), 4.66),
    ("default", (2160, 3840), 1, 8, Tiling(8), 3.184),
    ("default", (2160, 3840), 1, 8, Tiling(16, "all", 1), 2.547),
    ("flavr_8x", (720, 1280), 1, 8, WHOLE, 2.22),
    ("flavr_2x", (720, 1280), 1, 2, Tiling(4, "all", 1), 1.58),
]


@pytest.mark.parametrize(("preset", "size", "batch", "factor", "tiling", "actual"), PLANS_FOR_A_CPU)
def test_expected_memory_of_a_cpu_is_near_the_compilers_plan(
    preset, size, batch, factor, tiling, actual, monkeypatch
):
    monkeypatch.setattr(planner, "_kind", lambda precision: "cpu")
    expected = planner.memory(PRESETS[preset], "fp32", *size, factor, batch, tiling)
    assert actual < expected / GIB < 1.3 * actual


# The same for int8, measured with jax 0.12.0.
PLANS_IN_INT8 = [
    ((256, 448), 8, WHOLE, 0.115),
    ((720, 1280), 2, WHOLE, 0.436),
    ((720, 1280), 8, WHOLE, 0.921),
    ((720, 1280), 8, Tiling(2), 0.808),
    ((1080, 1920), 8, Tiling(8, "all", 1), 0.868),
    ((2160, 3840), 8, Tiling(8), 2.953),
]


@pytest.mark.parametrize(("size", "factor", "tiling", "actual"), PLANS_IN_INT8)
def test_expected_memory_in_int8_is_near_the_compilers_plan(
    size, factor, tiling, actual, monkeypatch
):
    monkeypatch.setattr(planner, "_kind", lambda precision: f"cpu in {precision}")
    expected = planner.memory(BUNDLED, "int8", *size, factor, 1, tiling)
    assert actual < expected / GIB < 1.45 * actual


ONE_LOOK = dataclasses.replace(BUNDLED, looks=(LookConfig(2, 64, layers=4),), flow_pairs=1)
# Temporary and output memory of the compiler's plans for an H200, in GiB, with the head's kernels
# (jax 0.12.0). Other GPUs run XLA's operations in their place, which take more in float32.
PLANS_FOR_AN_H200 = [
    ("default", "fp8", (720, 1280), 1, 8, WHOLE, 0.396),
    ("default", "fp8", (720, 1280), 2, 8, WHOLE, 0.791),
    ("default", "fp8", (256, 448), 16, 8, WHOLE, 0.794),
    ("default", "fp8", (2160, 3840), 1, 2, WHOLE, 0.950),
    ("default", "fp8", (2160, 3840), 1, 8, WHOLE, 3.561),
    ("default", "fp8", (2160, 3840), 1, 8, Tiling(2), 2.760),
    ("default", "fp8", (2160, 3840), 1, 8, Tiling(8, "all", 1), 1.550),
    ("default", "bf16", (720, 1280), 1, 2, WHOLE, 0.106),
    ("default", "bf16", (720, 1280), 2, 8, WHOLE, 0.791),
    ("default", "bf16", (1080, 1920), 1, 8, WHOLE, 0.904),
    ("default", "fp32", (1080, 1920), 1, 8, WHOLE, 2.002),
    ("one look", "fp8", (720, 1280), 2, 8, WHOLE, 0.942),
    ("one look", "fp8", (256, 448), 16, 8, WHOLE, 0.944),
    ("one look", "fp8", (2160, 3840), 1, 2, WHOLE, 1.012),
    ("one look", "fp8", (2160, 3840), 1, 8, WHOLE, 4.241),
    ("one look", "fp8", (2160, 3840), 1, 8, Tiling(2), 2.705),
    ("one look", "fp8", (2160, 3840), 1, 8, Tiling(8, "all", 1), 1.232),
    ("one look", "fp8", (4320, 7680), 1, 8, WHOLE, 16.964),
    ("one look", "bf16", (1080, 1920), 1, 8, WHOLE, 1.091),
    ("flavr_8x", "bf16", (1080, 1920), 1, 8, WHOLE, 1.524),
    ("flavr_8x", "bf16", (1080, 1920), 1, 8, Tiling(4), 1.102),
    ("one look", "fp32", (1080, 1920), 1, 8, WHOLE, 2.153),
    ("one look", "fp32", (1080, 1920), 1, 8, Tiling(4), 0.892),
    ("one look", "fp32", (1080, 1920), 1, 8, Tiling(4, "all", 1), 1.016),
]


@pytest.mark.parametrize(("preset", "precision", "size", "batch", "factor", "tiling", "actual"),
                         PLANS_FOR_AN_H200)  # fmt: skip
def test_expected_memory_of_a_gpu_covers_the_compilers_plan(
    preset, precision, size, batch, factor, tiling, actual, monkeypatch
):
    kinds = {"fp8": "8-bit kernels", "bf16": "16-bit kernels", "fp32": "gpu"}
    monkeypatch.setattr(planner, "_kind", kinds.get)
    config = ONE_LOOK if preset == "one look" else PRESETS[preset]
    expected = planner.memory(config, precision, *size, factor, batch, tiling)
    # Above it are the results of computations in the queue, which are no part of a plan.
    assert actual < expected / GIB < (1.75 if precision == "fp32" else 1.5) * actual


def test_frames_are_divided_only_if_memory_is_short_and_into_as_few_stripes_as_fit():
    assert planned(1080, 1920, 100).tiling == WHOLE
    plan = planned(2160, 3840, 8)
    assert plan.tiling.split == "fine"
    assert plan.tiling.stripes > 1
    assert plan.memory <= 8 * GIB
    half = Tiling(plan.tiling.stripes // 2)
    assert planner.memory(BUNDLED, "fp32", 2160, 3840, 8, 1, half) > 8 * GIB


def test_fast_tiles_take_less_memory_than_coarse_layers_of_whole_frames():
    fast = planned(2160, 3840, 3.2)
    assert fast.tiling.split == "all"
    assert fast.tiling.passes == 1
    assert planned(2160, 3840, 3.2, tiles="exact").tiling.passes is None


def test_a_limit_that_cannot_be_kept_is_explained():
    with pytest.raises(ValueError, match=r"1 GiB, but 7680×4320 pixels take at least .* GiB"):
        planned(4320, 7680, 1)
    with pytest.raises(ValueError, match="`tiles` auto"):
        planned(2160, 3840, 8, tiles="off")


def test_after_running_out_of_memory_frames_are_divided_further_each_time():
    seen = [WHOLE]
    while tiling := planner.smaller(BUNDLED, "fp32", 2160, 3840, 8, seen[-1]):
        seen.append(tiling)
    needed = [planner.memory(BUNDLED, "fp32", 2160, 3840, 8, 1, tiling) for tiling in seen]
    assert all(after < before for before, after in itertools.pairwise(needed))
    assert needed[1] < 2 / 3 * needed[0]
    # Exact stripes as long as they help, all layers in stripes after that.
    splits = [tiling.split for tiling in seen[1:]]
    assert splits == ["fine"] * splits.count("fine") + ["all"] * splits.count("all")
    assert {"fine", "all"} <= set(splits)


@pytest.mark.parametrize(
    ("size", "factor", "batch"),
    [
        ((256, 448), 8, 16), ((256, 448), 2, 16),
        ((720, 1280), 8, 4), ((720, 1280), 4, 4), ((720, 1280), 2, 8),
        ((1080, 1920), 8, 1), ((1080, 1920), 2, 2), ((2160, 3840), 2, 1),
    ],
)  # fmt: skip
def test_a_gpu_computes_several_small_intervals_at_a_time(size, factor, batch, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(planner, "_kind", lambda precision: "8-bit kernels")
    found = planner.plan(BUNDLED, "fp8", *size, factor, limit=100 * GIB)
    assert (found.batch, found.tiling) == (batch, WHOLE)


def test_a_batch_that_the_user_names_is_tried_first():
    assert planned(256, 448, 100, batch=4).batch == 4
    assert planned(1080, 1920, 5, batch=4).batch < 4


@pytest.mark.parametrize(
    ("text", "count"), [("6GB", 6 * 10**9), ("7.5 GiB", int(7.5 * GIB)), ("500m", 500 * 10**6)]
)
def test_amounts_of_memory_are_read(text, count):
    assert options.bytes_of(text) == count


@pytest.mark.parametrize("text", ["6", "six", "0GB", "-1GB", "6TB"])
def test_other_amounts_are_explained(text):
    with pytest.raises(ValueError, match=r"memory-limit.*like 6GB"):
        options.Resources(memory_limit=text)


def test_the_networks_parameters_count_towards_the_limit():
    config = ModelConfig(width=4)
    network = interpolator.Interpolator(config, flavr.init(config, jax.random.key(0)))
    plan = network.fit(24, 32, 2, options.Resources(memory_limit="10MB"))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(network._params))
    assert plan.limit == 10**7 - held
    with pytest.raises(ValueError, match="use a higher limit"):
        network.fit(24, 32, 2, options.Resources(memory_limit="0.1MB"))


def test_only_a_device_without_memory_is_out_of_memory():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    assert planner.is_out_of_memory(full)
    assert not planner.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: failed"))
    assert not planner.is_out_of_memory(MemoryError())


def test_multiplications_are_those_of_the_layers():
    shapes = flavr.parameter_shapes(BUNDLED), jax.ShapeDtypeStruct((1, 4, 256, 256, 3), jnp.float32)
    apply = functools.partial(flavr.apply, BUNDLED, implementation="reference")
    cost = jax.jit(apply).lower(*shapes).cost_analysis()
    assert cost is not None
    # The compiler leaves out products with padding, and counts operations other than products.
    counted = duration.multiplications(BUNDLED, 256, 256, 8)
    assert 0.8 < 2 * counted / cost["flops"] < 1.25


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "0.012"), (9.87, "9.9"), (881.4, "881")])
def test_times_are_said_without_an_exponent(seconds, text):
    assert duration._rounded(seconds) == text
