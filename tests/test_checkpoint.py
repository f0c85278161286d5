# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from flavr_jax import checkpoint
from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models import flavr

CONFIG = ModelConfig(width=2, n_outputs=3, join="add")


@pytest.fixture(scope="module")
def params():
    return flavr.init(CONFIG, jax.random.key(0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, params, dtype):
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    checkpoint.save(tmp_path / "a", CONFIG, stored, provenance={"source": "here", "step": 3})
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded.config == CONFIG
    assert loaded.provenance == {"source": "here", "step": 3}
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(stored)):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_an_existing_checkpoint_is_kept_unless_told_otherwise(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params, provenance={"run": 1})
    with pytest.raises(FileExistsError, match="--overwrite"):
        checkpoint.save(tmp_path / "a", CONFIG, params, provenance={"run": 2})
    assert checkpoint.load(tmp_path / "a").provenance == {"run": 1}
    checkpoint.save(tmp_path / "a", CONFIG, params, provenance={"run": 2}, overwrite=True)
    assert checkpoint.load(tmp_path / "a").provenance == {"run": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_writing_a_checkpoint_removes_nothing_of_the_users(tmp_path, params):
    for name in ("a.partial", "a.old.partial"):
        checkpoint.save(tmp_path / name, CONFIG, params, provenance={"name": name})
    checkpoint.save(tmp_path / "a", CONFIG, params)
    (tmp_path / "a" / "MODEL_CARD.md").write_text("years of notes")
    checkpoint.save(tmp_path / "a", CONFIG, params, provenance={"run": 2}, overwrite=True)
    assert (tmp_path / "a" / "MODEL_CARD.md").read_text() == "years of notes"
    assert checkpoint.load(tmp_path / "a").provenance == {"run": 2}
    for name in ("a.partial", "a.old.partial"):
        assert checkpoint.load(tmp_path / name).provenance == {"name": name}


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path, params):
    (tmp_path / "home" / "config").mkdir(parents=True)
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="never replaced"):
        checkpoint.save(tmp_path / "home", CONFIG, params, overwrite=True)
    assert (tmp_path / "home" / "config").is_dir()


def test_a_checkpoint_does_not_tell_where_it_was_written(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert files
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in files)


def test_parameters_of_another_network_are_refused_with_every_difference(tmp_path, params):
    checkpoint.save(tmp_path / "a", ModelConfig(width=2, n_outputs=7), params)
    with pytest.raises(ValueError, match="do not fit its config") as error:
        checkpoint.load(tmp_path / "a")
    message = str(error.value)
    assert "out/kernel has the shape (7, 7, 2, 9); the network needs (7, 7, 2, 21)" in message
    assert "out/bias has the shape" in message
    assert "decoder/stages/4/conv/kernel has the shape" in message


def test_missing_and_additional_parameters_are_named(params):
    changed = {**params, "extra": {"kernel": np.zeros(1)}}
    del changed["fuse"]
    assert checkpoint.differences(CONFIG, changed) == [
        "fuse/kernel is missing",
        "extra/kernel is not part of the network",
    ]


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="is no checkpoint"):
        checkpoint.load(tmp_path)


def test_settings_of_another_version_are_named(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    stored = next((tmp_path / "a" / "config").glob("metadata"))
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "colour": "rgb"}))
    with pytest.raises(ValueError, match="unknown key 'colour' for ModelConfig"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_checkpoint_with_nan_or_infinity_is_refused(tmp_path, params, value):
    broken = jax.tree.map(np.array, params)
    broken["out"]["kernel"][0, 0, 0, 0] = value
    checkpoint.save(tmp_path / "a", CONFIG, broken)
    for read in (checkpoint.load, checkpoint.read_parameters):
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of .* first is out/kernel"):
            read(tmp_path / "a")


def test_a_damaged_checkpoint_is_a_plain_error(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    for path in (tmp_path / "a" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged and cannot be read"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize("item", ["config", "provenance", "params"])
@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 100_000, "[]", "3", "null", '"a"', "{", "\xff", "9" * 10_000,
        " " * 5_000_000 + "{}",
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_json_is_one_short_error(tmp_path, params, item, text):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    file = tmp_path / "a" / item / ("_METADATA" if item == "params" else "metadata")
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is damaged and cannot be read") as error:
        checkpoint.load(tmp_path / "a")
    assert len(str(error.value)) < 1000


def test_a_checkpoint_from_before_there_were_several_looks_still_loads(tmp_path):
    config = ModelConfig(width=2, base="warp", trunk_scale=2, looks=(LookConfig(2, 4, layers=1),))
    params = flavr.init(config, jax.random.key(0))
    old = {**params, "head": params["head"]["looks"]["0"]}
    checkpoint.save(tmp_path / "old", config, old)
    file = tmp_path / "old" / "config" / "metadata"
    settings = json.loads(file.read_text())
    del settings["looks"]
    file.write_text(json.dumps({**settings, "refine": 4, "refine_layers": 1}))
    loaded = checkpoint.load(tmp_path / "old")
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 10**30}, {"width": 10**8}, {"n_outputs": 10**8}, {"n_inputs": 10**8},
        {"decoder_widths": [4, 2, 1, 1, 10**30]}, {"width": [[[[]]]]}, {"width": "2"},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_of_a_network_without_bounds_is_refused(tmp_path, params, changes):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    file = tmp_path / "a" / "config" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=r"/a|decoder_widths"):
        checkpoint.load(tmp_path / "a")


def test_an_array_that_claims_more_than_the_files_hold_is_not_read(tmp_path):
    stored = {"w": {"kernel": np.zeros(3, np.float32)}}
    checkpoint.save(tmp_path / "a", CONFIG, stored)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{tmp_path}/a/params/"}}
    spec = {"driver": "zarr", "kvstore": {**store, "path": "w.kernel/"}}
    metadata = {"shape": [10**11], "chunks": [10**11], "dtype": "<f4"}
    tensorstore.open({**spec, "metadata": metadata}, create=True, delete_existing=True).result()

    for read in (checkpoint.load, checkpoint.read_parameters):
        with pytest.raises(ValueError, match="arrays claim 400,000,000,000 bytes"):
            read(tmp_path / "a")


def test_weights_that_are_damaged_or_lost_are_one_line_and_no_traceback(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    largest = max((tmp_path / "a").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[:: len(data) // 50] = bytes(len(data[:: len(data) // 50]))
    largest.write_bytes(data)
    code = f"from flavr_jax import checkpoint; checkpoint.load({str(tmp_path / 'a')!r})"
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("ValueError: ")
    assert "Event loop" not in run.stderr


def test_a_chunk_that_is_missing_is_not_read_as_zeros(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{tmp_path}/a/params/"}}
    kvstore = tensorstore.KvStore.open(store).result()
    kvstore.delete_range(tensorstore.KvStore.KeyRange("out.kernel/0", "out.kernel/1")).result()
    with pytest.raises(ValueError, match="is damaged and cannot be read"):
        checkpoint.load(tmp_path / "a")


def test_a_folder_of_any_name_holds_a_checkpoint(tmp_path, params):
    path = tmp_path / "50% of #1? a: b"
    checkpoint.save(path, CONFIG, params)
    assert checkpoint.load(path).config == CONFIG


def test_scales_come_back_with_where_they_are_from(tmp_path, params):
    quantization = checkpoint.Quantization({"encoder/stem": 0.1 + 0.2}, {"windows": 3})
    checkpoint.save(tmp_path / "a", CONFIG, params, quantization=quantization)
    assert checkpoint.load(tmp_path / "a").quantization == quantization
    checkpoint.save(tmp_path / "b", CONFIG, params)
    assert checkpoint.load(tmp_path / "b").quantization is None


def test_scales_are_added_to_a_checkpoint_without_a_change_to_the_rest(tmp_path, params):
    checkpoint.save(tmp_path / "a", CONFIG, params, provenance={"run": 1})
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    for scale in (0.5, 0.25):
        checkpoint.add_quantization(tmp_path / "a", checkpoint.Quantization({"out": scale}))
    loaded = checkpoint.load(tmp_path / "a").quantization
    assert loaded is not None
    assert loaded.scales == {"out": 0.25}
    after = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} == {"quantization.json"}
    assert all(after[path] == before[path] for path in before)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_cannot_be_one_is_refused(scale):
    with pytest.raises(ValueError, match=r"the scale of 'out' is .* `flavr quantize`"):
        checkpoint.Quantization({"out": scale})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"scales": {"out": -1}}', "scale of 'out' is -1"),
        ('{"scales": {"out": null}}', "is damaged"),
        ('{"scales": {"out": "a"}}', "is damaged"),
        ('{"scales": [1]}', "is damaged"),
        ('{"scales": {"out": 1' + 400 * "0" + "}}", "is damaged"),
        ('{"a":' * 100_000, "is damaged"),
        ('{"scales": {"out": 1}, "scale": 1}', "unknown key 'scale'"),
        ('{"provenance": {}}', "is damaged"),
    ],
)
def test_damaged_scales_are_a_plain_error(tmp_path, params, text, message):
    checkpoint.save(tmp_path / "a", CONFIG, params)
    (tmp_path / "a" / "quantization.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "a")


def of(params, **changes):
    return checkpoint.Checkpoint(dataclasses.replace(CONFIG, **changes), params, {})


def test_a_mean_of_networks_weighs_every_parameter(params):
    halves = jax.tree.map(lambda leaf: np.asarray(leaf / 2, jnp.bfloat16), params)
    zeros = jax.tree.map(np.zeros_like, halves)
    mean = checkpoint.average([of(halves), of(zeros), of(halves)], [0.25, 0.5, 0.25])
    for leaf, half in zip(jax.tree.leaves(mean), jax.tree.leaves(halves)):
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, half / 2)
    further = checkpoint.average([of(halves), of(zeros)], [2.0, -1.0])
    jax.tree.map(lambda leaf, half: np.testing.assert_array_equal(leaf, 2 * half), further, halves)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [0.5, 0.25, 0.25]])
def test_weights_of_a_mean_are_one_for_each_and_add_up_to_one(params, weights):
    with pytest.raises(ValueError, match="one for each, of sum 1"):
        checkpoint.average([of(params), of(params)], weights)


def test_different_networks_have_no_mean(params):
    with pytest.raises(ValueError, match=r"differ in `base` \('mean' and 'blend'\); average"):
        checkpoint.average([of(params), of(params, base="blend")], [0.5, 0.5])
