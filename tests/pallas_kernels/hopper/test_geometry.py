# SPDX-License-Identifier: Apache-2.0
"""Index formulas of the kernels against the definition of a convolution, and ring arithmetic."""

import itertools

import jax.numpy as jnp
import pytest

from pallas_kernels.hopper.conv import config as configs
from pallas_kernels.hopper.conv.problem import Problem
from pallas_kernels.hopper.conv.tiles import next_stage, previous_stage, row_taps_of, tile_at
from pallas_kernels.hopper.gate.problem import GateProblem, RowSum
from pallas_kernels.hopper.geometry import ConvShape, Geometry
from pallas_kernels.hopper.primitives import divide
from pallas_kernels.hopper.weight_gradient.problem import WeightProblem


def conv_shape(**options):
    return ConvShape(
        **{
            "geometry": Geometry((3, 3, 3), (1, 1, 1)),
            "batch": 1,
            "in_time": 4,
            "time": 4,
            "height": 20,
            "width": 30,
            "in_channels": (64,),
            "channels": 64,
            **options,
        }
    )


def problem(config, conv=None, **options):
    return Problem(
        conv=conv or conv_shape(),
        config=config,
        dtype=jnp.dtype("bfloat16"),
        out_dtype=jnp.dtype("bfloat16"),
        activation=None,
        interpret=False,
        **{"residual": False, "totals": True, **options},
    )


GEOMETRIES = [
    Geometry((1, *size), (0, *low), stride=stride)
    for size, low in [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((5, 3), (2, 0)), ((7, 7), (3, 3))]
    for stride in (1, 2)
] + [
    Geometry((1, 4, 4), (0, 1, 1), stride=2),
    Geometry((1, 4, 4), (0, 1, 1), phases=2),
    Geometry((1, 6, 2), (0, 1, 0), phases=2),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_halo_tiles_and_taps_read_what_a_convolution_reads(geometry):
    _, kh, kw = geometry.kernel
    _, low_y, low_x = geometry.low
    stride, phases = geometry.stride, geometry.phases
    for phase in itertools.product(range(phases), repeat=2):
        read = []
        for halo_tile in range(geometry.halo_tiles):
            row, column, row_phase, column_phase = geometry.halo_origin(halo_tile, phase)
            for row_tap in range(row_taps_of(geometry, halo_tile % len(geometry.row_taps))):
                tap = divmod(geometry.tap_index(halo_tile, row_tap, phase), kw)
                y, x = stride * (row + row_tap) + row_phase, stride * column + column_phase
                read.append((tap, (y, x)))
        # Output pixel 0 of this phase: every tap (of a transposed convolution, every second one)
        # and the pixel that it meets, both counted from the definition.
        taps = itertools.product(range(phase[0], kh, phases), range(phase[1], kw, phases))
        expected = [
            (tap, ((tap[0] - phase[0]) // phases + phase[0] - low_y,
                   (tap[1] - phase[1]) // phases + phase[1] - low_x))
            for tap in taps
        ]  # fmt: skip
        assert sorted(read) == expected
        assert len(read) == geometry.spatial_taps


@pytest.mark.parametrize("by", [1, 2, 3, 7])
def test_divide_is_divmod_on_numbers_and_in_a_kernel(by):
    numbers = jnp.arange(40, dtype=jnp.int32)
    quotients, remainders = divide(numbers, by)
    for number in range(40):
        assert divide(number, by) == divmod(number, by)
        assert (int(quotients[number]), int(remainders[number])) == divmod(number, by)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_stages_go_round_and_back(stages):
    visited = [0]
    for _ in range(2 * stages):
        visited.append(int(next_stage(visited[-1], stages)))
    assert visited == [number % stages for number in range(2 * stages + 1)]
    assert all(int(previous_stage(next_stage(n, stages), stages)) == n for n in range(stages))


@pytest.mark.parametrize(("time", "taps", "low"), [(4, 3, 1), (1, 3, 1), (6, 3, 1), (3, 5, 2)])
def test_temporal_taps_met_are_those_inside_the_clip(time, taps, low):
    conv = conv_shape(geometry=Geometry((taps, 1, 1), (low, 0, 0)), time=time, in_time=time)
    for frame in range(time):
        met = sum(0 <= frame + tap - low < time for tap in range(taps))
        assert conv.temporal_taps_met(frame) == met
    grouped = [frame for group in conv.frames_by_cost for frame in group]
    assert sorted(grouped) == list(range(time))
    costs = [conv.temporal_taps_met(frame) for frame in grouped]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    ("time", "taps", "low"), [(4, 3, 1), (2, 3, 1), (1, 3, 1), (5, 3, 1), (4, 4, 0), (3, 1, 0)]
)
@pytest.mark.parametrize("phases", [1, 2])
def test_the_tiles_cover_every_output_once(time, taps, low, phases):
    size = (taps, 3, 3) if phases == 1 else (taps, 4, 4)
    in_time = time if taps != 4 else time + 3
    conv = conv_shape(
        geometry=Geometry(size, (low, 1, 1), phases=phases), time=time, in_time=in_time, batch=2,
        channels=32,
    )  # fmt: skip
    built = problem(configs.Config(8, 16, 16, 1), conv)
    count = 1
    for size in built.grid:
        count *= size
    tiles = [tile_at(built, number) for number in range(count)]
    found = [
        tuple(map(int, (t.sample, t.row, t.column, *t.phase, t.frame, t.channel))) for t in tiles
    ]
    expected = itertools.product(
        range(2), range(0, 20, 8), range(0, 30, 16), range(phases), range(phases), range(time),
        (0, 16),
    )  # fmt: skip
    assert sorted(found) == sorted(expected)
    # Partial sums of one frame and channel: tiles have two each, and none is shared.
    of_one = [t for t, at in zip(tiles, found) if (at[0], at[5], at[6]) == (0, 0, 0)]
    firsts = sorted(int(t.partial_sum) for t in of_one)
    assert firsts == list(range(0, built.partial_sums, built.partial_sums_per_tile))


@pytest.mark.parametrize("swap_ab", [False, True])
@pytest.mark.parametrize("tile_t", [1, 4])
def test_consumers_share_the_work_without_a_gap(swap_ab, tile_t):
    built = problem(configs.Config(8, 16, 64, tile_t, swap_ab=swap_ab))
    pixels = built.warpgroup_m * built.warpgroup_frames * configs.CONSUMERS
    assert pixels == built.config.tile_m * tile_t
    stored = built.warpgroup_frames * built.blocks_per_frame * built.config.tile_n // built.store_n
    assert stored == built.stores
    block = built.store_ring.rows * built.store_ring.columns
    assert block * built.blocks_per_frame == built.warpgroup_m


def test_products_with_frames_before_and_after_the_clip_are_left_out():
    built = problem(configs.Config(8, 16, 64, 4))
    assert len(built.frame_products) == 10  # of 12: the first and the last frame lack one tap each
    assert all(0 <= source < 4 for _, _, source in built.frame_products)
    assert built.temporal_taps == (0, 3)
    alone = conv_shape(time=1, in_time=1)
    assert problem(configs.Config(8, 16, 64, 1), alone).temporal_taps == (1, 1)


def test_pixels_in_registers_are_loaded_once_for_all_temporal_taps():
    conv = conv_shape(in_channels=(32,), channels=32)
    built = problem(configs.Config(8, 16, 32, 4), conv)
    assert built.loads_pixels
    groups = built.product_groups
    assert [{source for _, _, source in group} for group in groups] == [{0}, {1}, {2}, {3}]
    assert sorted(sum(groups, ())) == sorted(built.frame_products)
    # One frame, or weights as operand A: no products share pixels.
    for config in (configs.Config(8, 16, 32, 1), configs.Config(8, 16, 64, 4, swap_ab=True)):
        other = problem(config)
        assert not other.loads_pixels
        assert other.product_groups == (other.frame_products,)


ODD_SHAPES = [
    conv_shape(height=1, width=1),
    conv_shape(height=1, width=4097, channels=48),
    conv_shape(height=2161, width=3, in_channels=(16, 48)),
    conv_shape(in_channels=(80,), channels=112),
    conv_shape(time=7, in_time=7, channels=336),
    conv_shape(geometry=Geometry((3, 7, 7), (1, 3, 3)), in_channels=(16,), channels=16),
    conv_shape(geometry=Geometry((4, 1, 1), (0, 0, 0)), time=1, out_bytes=4),
    conv_shape(in_bytes=1, out_bytes=1, residual=True),
    conv_shape(in_bytes=1, in_channels=(96, 32), channels=96),
    conv_shape(geometry=Geometry((3, 4, 4), (1, 1, 1), phases=2), in_channels=(512, 512)),
]


@pytest.mark.parametrize("conv", ODD_SHAPES, ids=lambda conv: conv.key)
def test_every_candidate_fits_shared_memory_and_can_be_built(conv):
    found = configs.candidates(conv)
    assert found
    dtype = jnp.dtype("bfloat16" if conv.in_bytes == 2 else "float8_e4m3fn")
    out = {1: "float8_e4m3fn", 2: "bfloat16", 4: "float32"}[conv.out_bytes]
    for config in found:
        assert configs.smem_bytes(conv, config) <= 227 * 1024
        built = Problem(
            conv=conv, config=config, dtype=dtype, out_dtype=jnp.dtype(out), activation=None,
            residual=conv.residual, totals=True, interpret=False,
        )  # fmt: skip
        rings = 0
        for ring in (built.input_ring, built.store_ring):
            stages = 1
            for count in ring.stages:
                stages *= count
            tile = ring.frames * ring.rows * ring.columns * ring.channels * ring.dtype.itemsize
            rings += stages * tile
        weights = built.temporal_taps[1] * built.tile_k * config.tile_n * conv.in_bytes
        # The estimate counts the weights' temporal taps before those without a frame are left out.
        assert rings + config.weight_stages * weights <= configs.smem_bytes(conv, config)


def test_more_bytes_to_copy_or_products_to_make_cost_more():
    config = configs.Config(8, 16, 64, 1)
    costs = [
        configs.cost(conv, config, 132)
        for conv in (
            conv_shape(height=64, width=64),
            conv_shape(height=256, width=256),
            conv_shape(height=256, width=256, in_channels=(256,)),
        )
    ]
    assert costs == sorted(costs)
    assert costs[2] > 3 * costs[1]


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 512, 513, 1100, 5000])
def test_row_sums_cover_all_rows_in_eight_tiles_at_most(rows):
    row_sum = RowSum(rows)
    assert row_sum.blocks * row_sum.tiles * 64 >= rows
    assert row_sum.tiles <= 8
    assert (row_sum.blocks - 1) * row_sum.tiles * 64 < rows  # no block is without a row


def test_partial_sums_of_a_gate_follow_each_other():
    gate = GateProblem(
        batch=1, time=4, height=600, width=1100, partials=700, in_channels=(64, 48), channels=80,
        kernel=(3, 3, 3), phases=1, in_dtype=jnp.dtype("bfloat16"), dtype=jnp.dtype("bfloat16"),
        interpret=False,
    )  # fmt: skip
    covered = [number for numbers in gate.sum_ranges for number in numbers]
    assert covered == list(range(len(covered)))
    assert [len(numbers) for numbers in gate.sum_ranges] == [2, 3, 3, 2, 2, 1, 1, 1, 1]
    assert (gate.k_tiles, gate.sum_n, gate.tile_n) == ((1, 1), 16, 16)


@pytest.mark.parametrize("time", [1, 2, 3, 4])
@pytest.mark.parametrize(("kernel", "row_stride"), [((3, 3, 3), 1), ((3, 4, 2), 2)])
def test_weight_gradients_fit_shared_memory_and_use_the_sms(time, kernel, row_stride):
    built = WeightProblem(
        kernel=kernel, low=(1, 1, 1), row_stride=row_stride, batch=2, time=time,
        out_time=time, height=90, width=160, depth=128, channels=64,
        dtype=jnp.dtype("bfloat16"), sm_count=132, interpret=False,
    )  # fmt: skip
    assert built.stages >= 2
    tiles = [
        ring.frames * ring.rows * ring.columns * 64 * 2
        for ring in (built.input_ring, built.gradient_ring)
    ]
    assert built.stages * sum(tiles) <= 227 * 1024
    outputs = 1
    for count in built.output_tiles:
        outputs *= count
    assert outputs * built.split_k >= 0.8 * 132
