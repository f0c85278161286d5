# SPDX-License-Identifier: Apache-2.0
"""Measured tile sizes: how they are found, kept and used."""

import dataclasses
import json
import shlex

import jax
import jax.numpy as jnp
import pytest
import tyro

import pallas_kernels as pk
from flavr_jax.commands import tune_kernels
from flavr_jax.config import ModelConfig
from pallas_kernels.core import device
from pallas_kernels.core.jax_versions import CAN_TRANSPOSE
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


@pytest.fixture
def a_gpu_called(monkeypatch):
    def replace(kind):
        class Device:
            platform, device_kind, compute_capability, core_count = "gpu", kind, "9.0", 114

        monkeypatch.setattr(jax, "devices", lambda: [Device])

    return replace


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H200", "nvidia_h200"), ("NVIDIA H100 80GB HBM3", "nvidia_h100_80gb_hbm3")],
)
def test_a_table_has_the_name_of_the_device(kind, name, a_gpu_called):
    a_gpu_called(kind)
    assert device.table_name() == name
    assert device.sm_count() == 114


def test_a_card_reads_its_own_table_first_and_then_that_of_the_h200(tables, a_gpu_called):
    own, shared = configs.Config(32, 8, 16, 1), configs.Config(16, 8, 16, 1)
    other = dataclasses.replace(CONV, batch=2)
    tune.save("nvidia_h200", {CONV.key: shared, other.key: shared}, "a", "H200")
    tune.save("nvidia_h100_pcie", {CONV.key: own}, "b", "H100")
    a_gpu_called("NVIDIA H100 PCIe")
    assert configs.choose(CONV, 114) == own
    assert configs.choose(other, 114) == shared
    a_gpu_called("NVIDIA GH200 480GB")
    assert configs.choose(CONV, 132) == shared
    neither = dataclasses.replace(CONV, batch=3)
    assert configs.choose(neither, 132) in configs.candidates(neither)


def test_measuring_again_drops_the_run_that_no_config_is_left_of(tables):
    config = configs.Config(32, 8, 16, 1)
    for command, keys in (("first", "ab"), ("second", "b"), ("third", "a")):
        tune.save("card", dict.fromkeys(keys, config), command, "a GPU")
    table = json.loads((tables / "card.json").read_text())
    commands = {
        key: table["runs"][entry["run"]]["command"] for key, entry in table["configs"].items()
    }
    assert commands == {"a": "third", "b": "second"}
    assert len(table["runs"]) == 2
    assert [path.name for path in tables.iterdir()] == ["card.json"]


def test_the_shipped_table_is_found_and_used():
    path = configs.TABLES / "nvidia_h200.json"
    table = json.loads(path.read_text())
    measured = configs.tuned("nvidia_h200")
    assert len(measured) == len(table["configs"]) > 100
    conv = ConvShape(
        geometry=Geometry((3, 3, 3), (1, 1, 1)), batch=1, in_time=4, time=4, height=90, width=160,
        in_channels=(256,), channels=512,
    )  # fmt: skip
    entry = table["configs"][conv.key]
    chosen = configs.choose(conv, 132)
    if entry["swap_ab"] and not CAN_TRANSPOSE:
        return
    assert dataclasses.asdict(chosen) == {k: v for k, v in entry.items() if k != "run"}


def test_every_measured_config_names_a_command_that_the_script_takes():
    table = json.loads((configs.TABLES / "nvidia_h200.json").read_text())
    assert {entry["run"] for entry in table["configs"].values()} == set(range(len(table["runs"])))
    for run in table["runs"]:
        assert "H200" in run["environment"]
        program, name, *flags = shlex.split(run["command"])
        known = [("python", "scripts/tune_kernels.py"), ("flavr", "tune-kernels")]
        assert (program, name) in known
        tyro.cli(tune_kernels.Options, args=flags)  # exits where a flag does not exist


def test_training_adds_the_convolutions_of_the_gradient():
    options = tune_kernels.Options(batch=8, training=True)
    with pk.assume_hopper():
        found = tune_kernels.convs(ModelConfig(width=16), options, 64, 64)
    transposed = [conv for conv in found if conv.geometry.phases == 2]
    # Those of the network read two maps; those of the gradient of a stride read one.
    assert {len(conv.in_channels) for conv in transposed} == {1, 2}
    assert {conv.batch for conv in transposed} == {8}


def test_8_bits_have_no_gradient_to_measure():
    with pytest.raises(ValueError, match="no gradient"):
        tune_kernels.main(tune_kernels.Options(training=True, precision="fp8"))


def test_without_a_gpu_nothing_is_measured():
    if jax.default_backend() != "cpu":
        pytest.skip("needs a CPU as the default device")
    with pytest.raises(ValueError, match=r"needs an NVIDIA Hopper GPU.*\. Run this on a machine"):
        tune_kernels.main(tune_kernels.Options())
