# SPDX-License-Identifier: Apache-2.0
"""Costs and times by arithmetic: scaling laws, padding, a clock that is set by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models import quantized
from flavr_jax.profiling import costs, timing, trace
from flavr_jax.profiling.costs import layer_costs

SMALL = ModelConfig(width=8, n_outputs=3)


def sums(config=SMALL, *size, **options):
    found = layer_costs(config, *(size or (1, 32, 48)), **options)
    return [sum(getattr(cost, name) for cost in found) for name in ("dense_flops", "useful_flops")]


@pytest.fixture(scope="module")
def plain():
    return layer_costs(SMALL, 1, 32, 48)


def test_products_grow_with_the_number_of_windows():
    assert sums(SMALL, 3, 32, 48) == [3 * count for count in sums(SMALL, 1, 32, 48)]


def test_products_of_padded_convolutions_grow_with_the_area(plain):
    larger = layer_costs(SMALL, 1, 64, 96)
    for one, four in zip(plain, larger, strict=True):
        assert four.dense_flops == 4 * one.dense_flops, one.scope


def test_products_do_not_depend_on_the_type_and_bytes_do(plain):
    wide = layer_costs(SMALL, 1, 32, 48, jnp.float32)
    for narrow, other in zip(plain, wide, strict=True):
        assert other.dense_flops == narrow.dense_flops
        # The output convolution writes float32 in either case, here before a conversion.
        assert narrow.bytes < other.bytes <= 2 * narrow.bytes


def test_8_bits_save_bytes_and_no_product(plain):
    narrow = layer_costs(SMALL, 1, 32, 48, in_8_bits=True)
    assert [each.dense_flops for each in narrow] == [each.dense_flops for each in plain]
    assert sum(each.bytes for each in narrow) < sum(each.bytes for each in plain)


def test_useful_products_are_at_most_the_dense_ones(plain):
    assert all(0 < cost.useful_flops <= cost.dense_flops for cost in plain)
    # A single frame tap meets no padding in time.
    shortcut = next(cost for cost in plain if cost.scope.endswith("layer2/block0/shortcut"))
    assert shortcut.useful_flops == shortcut.dense_flops


def test_every_convolution_of_the_graph_is_counted_under_its_own_scope(plain):
    scopes = [cost.scope for cost in plain]
    assert len(set(scopes)) == len(scopes)
    assert len(quantized.convolutions(SMALL)) == len(plain) - 2  # without the fusion and the output


def test_a_smaller_trunk_has_fewer_products_by_the_square_of_its_scale():
    warp = {"width": 8, "n_outputs": 3, "base": "warp"}
    whole, half = (
        {cost.scope: cost.dense_flops for cost in layer_costs(ModelConfig(**each), 1, 32, 48)}
        for each in (warp, {**warp, "trunk_scale": 2})
    )
    assert whole["encoder/layer2/block0/conv1"] == 4 * half["encoder/layer2/block0/conv1"]
    assert whole["decoder/stage4"] == 4 * half["decoder/stage4"]


@pytest.mark.parametrize(
    ("taps", "frames", "padding"),
    [
        (3, 4, (1, 1)),
        (3, 1, (1, 1)),
        (5, 3, (2, 2)),
        (4, 4, (0, 0)),
        (1, 6, (0, 0)),
        (3, 2, (2, 0)),
    ],
)
def test_the_share_of_taps_inside_a_clip_is_counted_by_sliding_the_kernel(taps, frames, padding):
    clip = [0] * padding[0] + [1] * frames + [0] * padding[1]
    windows = [clip[start : start + taps] for start in range(len(clip) - taps + 1)]
    inside = list(itertools.chain.from_iterable(windows))
    expected = sum(inside) / len(inside)
    assert costs._share_inside(taps, frames, padding) == pytest.approx(expected)


class Clock:
    """A clock that moves when a call is started or waited for."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    return clock


@pytest.mark.parametrize("repeats", [2, 7, 40])
def test_times_are_those_between_start_and_result(clock, repeats):
    durations = iter([99.0] * 3 + [0.001 * n for n in range(1, 1000)])
    pending = []

    def start():
        pending.append(next(durations))

    def wait(_):
        # A device works off what was started, one call after the other.
        clock.now += sum(pending)
        pending.clear()

    found = timing.measure(start, wait, repeats)
    assert found.milliseconds == pytest.approx([*range(1, repeats + 1)])
    assert found.median == pytest.approx((repeats + 1) / 2)
    queued = range(repeats + 1, repeats + min(repeats, 20) + 1)
    assert found.queued == pytest.approx(sum(queued) / len(queued))


def test_a_single_repeat_is_made_two_for_the_quartiles(clock):
    def wait(_):
        clock.now += 0.004

    found = timing.measure(lambda: None, wait, 1, warm_up=0)
    assert found.milliseconds == pytest.approx((4.0, 4.0))
    assert found.quartiles == pytest.approx((4.0, 4.0))


def test_warm_up_calls_are_not_timed(clock):
    calls = []

    def wait(_):
        calls.append(None)
        clock.now += 60.0 if len(calls) <= 4 else 0.001

    assert max(timing.measure(lambda: None, wait, 5, warm_up=4).milliseconds) == pytest.approx(1)


@pytest.mark.parametrize(("backend", "size"), [("cpu", 1024), ("gpu", 8192)])
def test_products_fit_the_device(monkeypatch, backend, size):
    sizes = []
    monkeypatch.setattr(timing.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(timing, "measure", lambda *_: timing.CallTimes((1.0, 1.0), 1.0))
    monkeypatch.setattr(timing.jnp, "ones", lambda count, dtype: sizes.append(count))
    monkeypatch.setattr(
        timing.jax.random, "normal", lambda key, shape, dtype: sizes.append(shape) or (1.0, 1.0)
    )
    found = timing.measure_ceilings(jnp.float32)
    assert sizes[0] == (2, size, size)
    assert found.tflops == pytest.approx(8 * 2 * size**3 / 1e-3 / 1e12)
    # Both reads and writes of the copied array, which is float32.
    assert found.terabytes == pytest.approx(2 * 4 * sizes[1] / 1e-3 / 1e12)


def test_scopes_are_read_from_the_text_of_a_program():
    def named(x):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return jnp.sin(x) @ x

    text = jax.jit(named).lower(jnp.ones((4, 4))).compile().as_text()
    scopes = trace._scopes(text)
    assert "jit(named)/outer/inner" in scopes.values()


def test_an_operation_without_metadata_has_no_scope():
    text = '%a.1 = f32[2] add(x, y), metadata={op_name="jit(f)/layer/add"}\n%b = f32[2] copy(a.1)'
    assert trace._scopes(text) == {"a.1": "jit(f)/layer"}


@pytest.mark.parametrize(
    ("scope", "counted"),
    [
        ("jit(f)/encoder/stem", "encoder/stem"),
        ("jit(f)/transpose(jvp(f))/encoder/stem/conv", "encoder/stem"),
        ("encoder/stem", "encoder/stem"),
        ("jit(f)/encoder/stem2", ""),
        ("jit(f)/my_encoder/stem", ""),
        ("", ""),
    ],
)
def test_time_belongs_to_whole_names_of_scopes(scope, counted):
    times = trace.by_scope([trace.Kernel("k", scope, 2.0, 1.0)], ["encoder/stem"])
    assert times[counted] == 2.0
    assert math.isclose(sum(times.values()), 2.0)


def test_the_first_scope_that_contains_a_kernel_gets_its_time():
    # So that a list of a stage and its layers counts nothing twice.
    kernel = trace.Kernel("k", "jit(f)/decoder/stage1/gate", 3.0, 1.0)
    times = trace.by_scope([kernel], ["decoder/stage1/gate", "decoder/stage1"])
    assert times == {"decoder/stage1/gate": 3.0, "decoder/stage1": 0.0, "": 0.0}
