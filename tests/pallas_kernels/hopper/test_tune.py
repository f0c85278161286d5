# SPDX-License-Identifier: Apache-2.0
"""Measured tile sizes: how they are found, kept and used."""

import json

import jax.numpy as jnp
import pytest

import pallas_kernels as pk
from pallas_kernels.hopper import tune
from pallas_kernels.hopper.conv import config as configs
from pallas_kernels.hopper.geometry import ConvShape, Geometry
from tests.pallas_kernels.oracles import needs_interpreter

CONV = ConvShape(
    geometry=Geometry((1, 3, 3), (0, 1, 1)),
    batch=1,
    in_time=1,
    time=1,
    height=3,
    width=8,
    in_channels=(16,),
    channels=16,
)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "TABLES", tmp_path)
    monkeypatch.setattr(tune, "TABLES", tmp_path)
    configs.tuned.cache_clear()
    yield tmp_path
    configs.tuned.cache_clear()


@needs_interpreter
def test_all_tiles_compute_the_same_and_come_back_fastest_first(monkeypatch):
    monkeypatch.setattr(tune, "_LAUNCHES", 1)
    monkeypatch.setattr(tune, "_PROGRAMS", 1)
    with pk.interpret():
        configs = tune.shortlist(CONV, 2)
        [(conv, found)] = tune.measure_all([CONV], 2)
    assert conv == CONV
    assert {measurement.config for measurement in found} == set(configs)
    assert len(set(configs)) == 2
    times = [measurement.milliseconds for measurement in found]
    assert times == sorted(times)
    assert all(measurement.error == 0 for measurement in found)


def test_measured_sizes_are_used_and_earlier_ones_kept(tables):
    config = configs.Config(32, 8, 16, 1, input_stages=3)
    assert configs.choose(CONV, 132) != config
    tune.save("nvidia_h200", {"other": config}, "first", "a GPU")
    tune.save("nvidia_h200", {CONV.key: config}, "second", "a GPU")
    configs.tuned.cache_clear()
    assert configs.choose(CONV, 132) == config
    table = json.loads((tables / "nvidia_h200.json").read_text())
    assert set(table["configs"]) == {"other", CONV.key}
    runs = [entry["run"] for entry in (table["configs"]["other"], table["configs"][CONV.key])]
    assert [table["runs"][run]["command"] for run in runs] == ["first", "second"]


def test_the_convolutions_of_a_function_are_recorded_once_each():
    x = jnp.zeros((1, 2, 8, 8, 16), jnp.bfloat16)
    kernel = jnp.zeros((3, 3, 3, 16, 16), jnp.bfloat16)

    def twice(x, kernel):
        x = pk.conv3d(x, kernel, implementation="mosaic_gpu")
        return pk.conv3d(x, kernel, implementation="mosaic_gpu").values

    with pk.assume_hopper():
        assert configs.record_convs(twice, x, kernel) == [
            ConvShape(
                geometry=Geometry((3, 3, 3), (1, 1, 1)),
                batch=1,
                in_time=2,
                time=2,
                height=8,
                width=8,
                in_channels=(16,),
                channels=16,
            )
        ]
