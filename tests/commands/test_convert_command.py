# SPDX-License-Identifier: Apache-2.0
"""One command turns any PyTorch FLAVR into a checkpoint, or says in one line why not."""

import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from flavr_jax import checkpoint, cli, torch_weights
from flavr_jax.commands import convert as script
from flavr_jax.config import ModelConfig

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "pytorch"
LEGACY = FILES / "official_8x_legacy.pth"


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the script with these arguments; returns its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert_torch.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(script.main, script.Options)
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


def as_raw_folder(tensors, path):
    path.mkdir()
    for name, tensor in tensors.items():
        (path / f"{name}__{'x'.join(map(str, tensor.shape))}.bin").write_bytes(tensor.tobytes())
    return path


def as_safetensors(tensors, path):
    header, position = {}, 0
    for name, tensor in tensors.items():
        offsets = [position, position + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("container", ["legacy .pth", ".safetensors", "raw folder"])
def test_every_container_gives_the_same_checkpoint(convert, tmp_path, container):
    tensors = torch_weights.read(LEGACY).tensors
    source = {
        "legacy .pth": lambda: LEGACY,
        ".safetensors": lambda: as_safetensors(tensors, tmp_path / "weights.safetensors"),
        "raw folder": lambda: as_raw_folder(tensors, tmp_path / "tensor_bins"),
    }[container]()

    code, _, err = convert(source, "--output", tmp_path / "converted")

    assert (code, err) == (0, "")
    loaded = checkpoint.load(tmp_path / "converted")
    assert loaded.config == ModelConfig(width=1, n_outputs=7)
    expected = torch_weights.convert(tensors).params
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
    assert loaded.provenance["source"] == source.name
    assert loaded.provenance["sha256"] == torch_weights.read(source).sha256


def test_provenance_says_where_the_weights_came_from(convert, tmp_path):
    convert(LEGACY, "--output", tmp_path / "converted")

    provenance = checkpoint.load(tmp_path / "converted").provenance
    assert provenance["format"] == "PyTorch legacy"
    assert provenance["extra"] == {"epoch": 115, "best_psnr": 31.3125, "lr": 2.5e-05}
    assert provenance["converted"].endswith("+00:00")


def test_the_report_shows_each_tensor_under_both_names(convert, tmp_path):
    _, out, _ = convert(LEGACY, "--output", tmp_path / "converted")

    row = [line.split() for line in out.splitlines() if "layer4.0.conv1.0.weight" in line]
    assert row == [
        [
            "module.encoder.layer4.0.conv1.0.weight",
            "8×4×3×3×3",
            "encoder/layer4/0/conv1/kernel",
            "3×3×3×4×8",
        ]
    ]
    assert "not read, not needed: optimizer" in out
    assert "76 tensors mapped" in out
    assert "0 unmapped, 0 missing, 0 of wrong shape" in out


def test_bfloat16_stores_rounded_weights(convert, tmp_path):
    code, _, _ = convert(LEGACY, "--output", tmp_path / "converted", "--dtype", "bfloat16")

    assert code == 0
    exact = torch_weights.convert(torch_weights.read(LEGACY).tensors).params
    stored = checkpoint.load(tmp_path / "converted").params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stored)} == {"bfloat16"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.astype(np.float32), b, rtol=2**-8),
        stored,
        exact,
    )


def test_join_none_can_be_said(convert, tmp_path):
    source = FILES / "mc3_2x_views.pth"

    _, out, _ = convert(source, "--output", tmp_path / "add")
    convert(source, "--output", tmp_path / "none", "--join", "none")

    assert "say --join none if it is" in out
    assert checkpoint.load(tmp_path / "add").config.join == "add"
    assert checkpoint.load(tmp_path / "none").config.join == "none"


def test_an_incomplete_network_is_reported_whole_and_not_written(convert, tmp_path):
    tensors = dict(torch_weights.read(LEGACY).tensors)
    del tensors["module.decoder.0.conv.0.weight"]
    tensors["module.flow.weight"] = np.zeros(3, np.float32)
    tensors["module.outconv.1.bias"] = np.zeros(4, np.float32)
    source = as_raw_folder(tensors, tmp_path / "tensor_bins")

    code, out, err = convert(source, "--output", tmp_path / "converted")

    assert code == 2
    assert "74 tensors mapped" in out
    assert "`decoder.0.conv.0.weight` is missing" in out
    assert "`module.flow.weight` has no place in this network" in out
    assert "`module.outconv.1.bias` has shape (4,), this network's is (21,)" in out
    assert err.startswith("error: ")
    assert "3 tensors" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "converted").exists()


def test_a_malicious_pickle_is_one_line_and_leaves_nothing(convert, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"state_dict": Attack()}, protocol=2))

    for flags in (["--output", tmp_path / "converted"], ["--inspect"]):
        code, _, err = convert(tmp_path / "evil.pth", *flags)

        assert code == 2
        assert err.startswith("error: ")
        assert f"`{os.system.__module__}.system`" in err
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_an_existing_checkpoint_is_kept_unless_overwritten(convert, tmp_path):
    output = tmp_path / "converted"
    output.mkdir()
    (output / "mine").write_text("precious")

    code, _, err = convert(LEGACY, "--output", output)
    assert code == 2
    assert "--overwrite" in err
    assert (output / "mine").read_text() == "precious"

    code, _, err = convert(LEGACY, "--output", output, "--overwrite")
    assert code == 2
    assert "never replaced" in err
    assert (output / "mine").read_text() == "precious"

    (output / "mine").rename(tmp_path / "mine")
    output.rmdir()
    assert convert(LEGACY, "--output", output)[0] == 0
    (tmp_path / "mine").rename(output / "mine")
    code, _, _ = convert(LEGACY, "--output", output, "--overwrite")
    assert code == 0
    assert checkpoint.load(output).config.n_outputs == 7
    assert (output / "mine").read_text() == "precious"


def test_inspect_shows_hyper_parameters_and_values_and_writes_nothing(convert, tmp_path):
    output = tmp_path / "converted"

    code, out, err = convert(LEGACY, "--inspect", "--output", output)

    assert (code, err) == (0, "")
    assert "epoch: 115" in out
    assert "lr: 2.5e-05" in out
    assert "width 1, depth 18, n_inputs 4, n_outputs 7, join concat" in out
    bias = torch_weights.read(LEGACY).tensors["module.outconv.1.bias"].astype(np.float64)
    row = next(line for line in out.splitlines() if line.startswith("module.outconv.1.bias"))
    figures = [f"{value:.4g}" for value in (bias.min(), bias.max(), bias.mean(), bias.std())]
    assert row.split() == ["module.outconv.1.bias", "21", "float32", *figures]
    assert not output.exists()


def test_inspect_shows_any_network(convert, tmp_path):
    tensors = {"conv1.weight": np.ones((2, 3), np.float32)}

    code, out, _ = convert(as_raw_folder(tensors, tmp_path / "other"), "--inspect")

    assert code == 0
    assert "conv1.weight" in out
    assert "not recognised: this is no FLAVR" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([LEGACY], "--output"),
        (["missing.pth", "--inspect"], "missing.pth"),
        ([ROOT / "pyproject.toml", "--inspect"], "not a checkpoint"),
        ([FILES, "--inspect"], "without .bin files"),
    ],
)
def test_a_wrong_source_is_one_line(convert, arguments, message):
    code, _, err = convert(*arguments)

    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
