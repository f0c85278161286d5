# SPDX-License-Identifier: Apache-2.0
"""Choice of tile sizes: which tiles are possible, what the cost model says of them, and tables."""

import dataclasses
import itertools
import json

import pytest

from pallas_kernels.core.device import SMEM_BYTES
from pallas_kernels.hopper.conv import config as configs
from pallas_kernels.hopper.geometry import ConvShape, Geometry

CONV = ConvShape(
    geometry=Geometry((3, 3, 3), (1, 1, 1)), batch=1, in_time=4, time=4, height=64, width=96,
    in_channels=(64,), channels=64,
)  # fmt: skip
ONE_TAP = dataclasses.replace(CONV, geometry=Geometry((1, 1, 1), (0, 0, 0)))
NARROW = dataclasses.replace(CONV, in_channels=(32,), in_bytes=1, out_bytes=1)


def changed(**fields):
    return dataclasses.replace(CONV, **fields)


@pytest.fixture
def no_tables(tmp_path, monkeypatch):
    """A folder of tables, empty at first."""
    monkeypatch.setattr(configs, "TABLES", tmp_path)
    configs.tuned.cache_clear()
    yield tmp_path
    configs.tuned.cache_clear()


def save(folder, name, entries):
    table = {conv.key: {**dataclasses.asdict(config), "run": 0} for conv, config in entries.items()}
    (folder / f"{name}.json").write_text(json.dumps({"runs": [], "configs": table}))


def test_the_cheapest_candidate_is_chosen_where_nothing_was_measured(no_tables):
    for conv in (CONV, ONE_TAP, NARROW, changed(height=1, width=1), changed(channels=512)):
        costs = {config: configs.cost(conv, config, 132) for config in configs.candidates(conv)}
        chosen = configs.choose(conv, 132, "card")
        assert costs[chosen] == min(costs.values())


def test_a_measured_config_is_used_whatever_the_model_says(no_tables):
    dearest = max(configs.candidates(CONV), key=lambda config: configs.cost(CONV, config, 132))
    dearest = dataclasses.replace(dearest, swap_ab=False)
    save(no_tables, "card", {CONV: dearest})
    assert configs.choose(CONV, 132, "card") == dearest
    assert configs.choose(ONE_TAP, 132, "card") in configs.candidates(ONE_TAP)
    assert configs.choose(CONV, 132, "other") != dearest


def test_what_a_later_version_writes_into_a_table_is_ignored(no_tables):
    config = configs.Config(16, 8, 64, 1)
    save(no_tables, "card", {CONV: config})
    path = no_tables / "card.json"
    table = json.loads(path.read_text())
    table["configs"][CONV.key]["clusters"] = 2
    path.write_text(json.dumps(table))
    assert configs.tuned("card") == {CONV.key: config}


def test_a_card_without_a_table_has_no_measured_configs(no_tables):
    assert configs.tuned("card") == {}


@pytest.mark.parametrize("channels", [8, 24, 40, 1])
def test_channels_that_no_tile_divides_are_named_with_the_rule(channels, no_tables):
    conv = changed(channels=channels)
    assert configs.candidates(conv) == []
    with pytest.raises(
        ValueError, match=rf"\(64,\) → {channels} channels cannot be tiled; .* of 16"
    ):
        configs.choose(conv, 132, "card")


@pytest.mark.parametrize(
    "conv",
    [
        CONV,
        ONE_TAP,
        NARROW,
        changed(channels=336),
        changed(in_channels=(16, 48)),
        changed(out_bytes=4),
    ],
    ids=lambda conv: conv.key,
)
def test_candidates_are_different_tiles_with_the_deepest_rings_that_fit(conv):
    found = configs.candidates(conv)
    tiles = [(c.tile_h, c.tile_w, c.tile_n, c.tile_t, c.swap_ab) for c in found]
    assert len(set(tiles)) == len(tiles) > 4
    for config in found:
        assert configs.smem_bytes(conv, config) <= SMEM_BYTES
        assert 2 <= config.input_stages <= 4
        assert 2 <= config.weight_stages <= 4
        for ring in ("weight_stages", "input_stages"):
            deeper = dataclasses.replace(config, **{ring: getattr(config, ring) + 1})
            full = getattr(config, ring) == 4
            assert full or configs.smem_bytes(conv, deeper) > SMEM_BYTES
        # An odd number of stores cannot alternate between two buffers.
        stores = (
            config.tile_t
            * config.tile_n
            // (min(config.tile_n & -config.tile_n, 128 // conv.out_bytes))
        )
        assert stores % config.store_stages == 0


def test_a_tile_spans_the_clip_only_if_the_clip_is_short_and_keeps_its_length():
    spans = {
        (time, in_time): {c.tile_t for c in configs.candidates(changed(time=time, in_time=in_time))}
        for time, in_time in ((1, 1), (2, 2), (4, 4), (5, 5), (1, 4))
    }
    assert spans == {(1, 1): {1}, (2, 2): {1, 2}, (4, 4): {1, 4}, (5, 5): {1}, (1, 4): {1}}


def test_memory_grows_by_a_tile_for_each_stage():
    config = configs.Config(16, 8, 64, 1)
    sizes = {
        name: configs.smem_bytes(
            CONV, dataclasses.replace(config, **{name: 3 if name != "store_stages" else 2})
        )
        - configs.smem_bytes(CONV, config)
        for name in ("input_stages", "weight_stages", "store_stages")
    }
    # In 16 bits: 18 rows of 8 pixels and 64 channels, 64 by 64 weights of a tap, 128 pixels of 64.
    assert sizes == {
        "input_stages": 18 * 8 * 64 * 2, "weight_stages": 64 * 64 * 2, "store_stages": 128 * 64 * 2,
    }  # fmt: skip


@pytest.mark.parametrize("config", configs.candidates(CONV)[::9], ids=str)
def test_costs_grow_with_the_work_and_fall_with_the_sms(config):
    base = configs.cost(CONV, config, 132)
    assert base > 0
    for more in (
        changed(batch=4), changed(height=256), changed(width=384), changed(channels=256),
        changed(in_channels=(256,)), changed(in_channels=(64, 64)),
    ):  # fmt: skip
        assert configs.cost(more, config, 132) > base
    assert configs.cost(ONE_TAP, config, 132) < base
    assert configs.cost(CONV, config, 16) > configs.cost(CONV, config, 132)


def test_work_for_all_sms_costs_as_much_as_for_one():
    # 132 tiles on 132 SMs run side by side; the 133rd waits for another round.
    config = configs.Config(16, 8, 64, 1)
    one, full, more = (
        configs.cost(changed(batch=batch, height=16, width=8, time=1, in_time=1), config, 132)
        for batch in (1, 132, 133)
    )
    assert one == full
    assert more == pytest.approx(2 * full)


def test_a_name_in_the_tables_tells_all_that_tiles_depend_on_apart():
    variants = [
        CONV, ONE_TAP, NARROW, changed(batch=2), changed(time=1), changed(height=65),
        changed(width=97), changed(in_channels=(32, 32)), changed(in_channels=(128,)),
        changed(channels=128), changed(out_bytes=4), changed(out_bytes=1),
        changed(geometry=Geometry((3, 3, 3), (1, 1, 1), stride=2)),
        changed(geometry=Geometry((3, 4, 4), (1, 1, 1), phases=2)),
        dataclasses.replace(NARROW, residual=True), dataclasses.replace(NARROW, out_bytes=2),
    ]  # fmt: skip
    for one, other in itertools.combinations(variants, 2):
        assert one.key != other.key, (one, other)
    assert CONV.key == "3x3x3s1 1x4-4x64x96 64-64 16"


@pytest.mark.parametrize(
    ("in_channels", "tile_n", "more", "expected"),
    [
        ((64,), 64, {}, 64),  # a swizzled row of 128 bytes
        ((256,), 128, {}, 64),
        ((48,), 64, {}, 16),
        ((64, 32), 64, {}, 32),
        ((128,), 64, {"in_bytes": 1, "out_bytes": 1}, 128),
        ((128,), 32, {"in_bytes": 1, "out_bytes": 1}, 128),  # weights are stored the other way
        ((128,), 32, {"in_bytes": 1, "out_bytes": 1, "residual": True}, 32),
        ((128,), 256, {"in_bytes": 1, "out_bytes": 2, "residual": True}, 64),
    ],
)
def test_a_chunk_divides_every_input_and_fills_a_swizzled_row_at_most(
    in_channels, tile_n, more, expected
):
    assert changed(in_channels=in_channels, **more).tile_k(tile_n) == expected


def test_products_are_the_taps_times_the_channels():
    assert CONV.products == 27 * 64
    assert changed(in_channels=(16, 48)).products == 27 * 64
    # A pixel of a transposed convolution meets every second row and column of the taps.
    assert changed(geometry=Geometry((3, 4, 4), (1, 1, 1), phases=2)).products == 12 * 64
