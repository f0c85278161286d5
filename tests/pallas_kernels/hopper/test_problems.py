# SPDX-License-Identifier: Apache-2.0
"""Sizes of launches: who computes what, without a gap, an overlap or an idle SM."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.hopper import image_tiles
from pallas_kernels.hopper.gate.problem import GateProblem
from pallas_kernels.hopper.sample.problem import SampleProblem
from pallas_kernels.hopper.weight_gradient.problem import WeightProblem

LOOK_UP = SampleProblem(
    batch=1, outputs=3, sources=2, image_height=90, image_width=160, height=90, width=160,
    channels=3, sm_count=132, interpret=False,
)  # fmt: skip
WEIGHTS = WeightProblem(
    kernel=(3, 3, 3), low=(1, 1, 1), row_stride=1, batch=2, time=4, out_time=4, height=90,
    width=160, depth=128, channels=64, dtype=jnp.dtype("bfloat16"), sm_count=132, interpret=False,
)  # fmt: skip
GATE = GateProblem(
    batch=1, time=4, height=90, width=160, partials=60, in_channels=(64,), channels=64,
    kernel=(3, 3, 3), phases=1, in_dtype=jnp.dtype("bfloat16"), dtype=jnp.dtype("bfloat16"),
    interpret=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("height", "width", "tiles"),
    [(1, 1, 1), (8, 17, 2), (1, 129, 2), (3, 200, 5), (4, 32, 1), (5, 33, 4), (90, 160, 115)],
)
def test_tiles_cover_an_image(height, width, tiles, monkeypatch):
    monkeypatch.setattr(image_tiles, "_thread_numbers", lambda: jnp.arange(128))
    found = image_tiles.ImageTiles(height, width)
    assert found.count == tiles
    places = [found.at(number) for number in range(tiles)]
    pixel, row, column = (np.concatenate(each) for each in zip(*places))
    assert np.array_equal(pixel, row * width + column)
    assert set(range(height * width)) <= set(pixel.tolist()) <= set(range(found.pixels))
    # A warp of 32 threads writes consecutive pixels.
    assert (np.diff(pixel.reshape(-1, 32), axis=1) == 1).all()


@pytest.mark.parametrize("outputs", [1, 3, 7])
@pytest.mark.parametrize(
    ("height", "width", "batch"), [(90, 160, 1), (720, 1280, 1), (90, 160, 16)]
)
def test_outputs_share_a_block_only_where_there_are_blocks_for_all_sms(
    outputs, height, width, batch
):
    found = dataclasses.replace(LOOK_UP, outputs=outputs, height=height, width=width, batch=batch)
    assert found.blocks * found.outputs_per_block == batch * outputs * found.tiles.count
    shared = found.batch * found.tiles.count >= 8 * 132
    assert found.outputs_per_block == (outputs if shared else 1)
    assert not shared or found.blocks >= 8 * 132


def test_a_launch_is_named_by_what_it_does():
    assert LOOK_UP.name("gather") == "gather_2_to_3_at_90x160"
    assert WEIGHTS.name == "weights_3x3x3_stride1_128_to_64_at_90x160"


@pytest.mark.parametrize(
    ("kernel", "low", "time", "count"),
    [((3, 3, 3), 1, 4, 10), ((3, 3, 3), 1, 1, 1), ((1, 3, 3), 0, 4, 4), ((3, 2, 2), 1, 2, 4)],
)
def test_products_of_a_weight_gradient_are_those_of_frames_that_exist(kernel, low, time, count):
    found = dataclasses.replace(
        WEIGHTS, kernel=kernel, low=(low, 1, 1), time=time, out_time=time
    ).products
    assert len(found) == len(set(found)) == count
    for row_tap, tap, frame, source in found:
        assert row_tap == 0
        assert source == frame + tap - low
        assert 0 <= source < time
        assert 0 <= frame < time
        assert 0 <= tap < kernel[0]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (90, 160), (1, 1), (16, 17)])
def test_pixel_tiles_cover_the_gradient(height, width):
    _, rows, columns = dataclasses.replace(WEIGHTS, height=height, width=width).pixel_tiles
    assert (rows - 1) * 8 < height <= rows * 8
    assert (columns - 1) * 8 < width <= columns * 8


@pytest.mark.parametrize("height", [8, 40, 270])
@pytest.mark.parametrize(("depth", "channels"), [(64, 64), (128, 256), (512, 512)])
def test_pixels_are_split_where_that_saves_time_and_no_further(height, depth, channels):
    problem = dataclasses.replace(WEIGHTS, height=height, depth=depth, channels=channels)
    outputs, pixels = math.prod(problem.output_tiles), math.prod(problem.pixel_tiles)

    def steps(splits):
        """Steps of the busiest SM: its blocks, each with its pixels and three steps of overhead."""
        return math.ceil(outputs * splits / 132) * (math.ceil(pixels / splits) + 3)

    assert 1 <= problem.split_k <= min(pixels, 132)
    assert steps(problem.split_k) == min(steps(n) for n in range(1, min(pixels, 132) + 1))
    assert all(steps(n) > steps(problem.split_k) for n in range(1, problem.split_k))


@pytest.mark.parametrize(
    ("kernel", "stride", "consumers", "tiles"),
    [((3, 3, 3), 1, 3, 3), ((3, 4, 2), 2, 2, 4), ((1, 1, 1), 1, 1, 1)],
)
def test_vertical_taps_that_read_the_same_rows_share_a_tile(kernel, stride, consumers, tiles):
    problem = dataclasses.replace(WEIGHTS, kernel=kernel, row_stride=stride)
    assert problem.consumers == consumers
    assert problem.output_tiles == (2, 1, tiles)
    # A consumer for each tap of a tile, and a tile for each of the others.
    assert problem.consumers * tiles == kernel[1] * kernel[2]
    assert problem.input_ring.rows == problem.gradient_ring.rows + consumers - 1


@pytest.mark.parametrize(("taps", "each"), [(4, 2), (5, 3), (7, 4)])
def test_two_consumers_share_more_than_three_vertical_taps(taps, each):
    problem = dataclasses.replace(WEIGHTS, kernel=(1, taps, 4), low=(0, 0, 0))
    assert (problem.consumers, problem.row_taps, problem.sums) == (2, each, each)
    assert problem.input_ring.rows == problem.gradient_ring.rows + 2 * each - 1
    assert [product[0] for product in problem.products] == [
        n for n in range(each) for _ in range(4)
    ]


@pytest.mark.parametrize("time", [1, 2, 3, 4])
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_rings_of_a_weight_gradient_fit_and_overlap(time, taps):
    problem = dataclasses.replace(WEIGHTS, kernel=(3, taps, 3), time=time, out_time=time)
    rings = (problem.input_ring, problem.gradient_ring)
    assert all(ring.stages == (problem.stages,) and ring.frames == time for ring in rings)
    assert problem.stages >= 2  # a copy runs while the other stage is multiplied


@pytest.mark.parametrize(
    ("in_channels", "tiles"), [((64,), (1,)), ((65,), (2,)), ((16, 200), (1, 4))]
)
def test_tiles_of_a_gate_cover_the_channels_of_every_input(in_channels, tiles):
    assert dataclasses.replace(GATE, in_channels=in_channels).k_tiles == tiles


@pytest.mark.parametrize(
    ("in_channels", "channels", "sum_n", "tile_n"),
    [((64,), 64, 32, 32), ((48,), 80, 16, 16), ((128, 16), 96, 16, 32), ((8,), 8, 8, 8)],
)
def test_blocks_of_a_gate_divide_its_channels(in_channels, channels, sum_n, tile_n):
    problem = dataclasses.replace(GATE, in_channels=in_channels, channels=channels)
    assert (problem.sum_n, problem.tile_n) == (sum_n, tile_n)
    assert all(size % sum_n == 0 for size in in_channels)
    assert channels % tile_n == 0


@pytest.mark.parametrize("size", [(90, 160), (4, 4000), (4000, 4), (1, 1)])
@pytest.mark.parametrize("partials", [1, 60, 5000])
def test_sums_of_a_gate_are_numbered_without_a_gap(size, partials):
    problem = dataclasses.replace(GATE, height=size[0], width=size[1], partials=partials)
    numbers = np.concatenate([np.array(each) for each in problem.sum_ranges])
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    total, rows, columns = (each.blocks for each in problem.row_sums)
    assert [len(each) for each in problem.sum_ranges] == [
        total, rows, rows, columns, columns, 1, 1, 1, 1,
    ]  # fmt: skip
