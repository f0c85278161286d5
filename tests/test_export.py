# SPDX-License-Identifier: Apache-2.0
"""An exported network is one file that computes what the network computes."""

import importlib.util
import sys
from functools import partial

import jax
import numpy as np
import pytest

from flavr_jax import checkpoint, cli, export
from flavr_jax.commands import export as command
from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models import flavr

pytestmark = pytest.mark.usefixtures("shallow")

PLAIN = ModelConfig(width=2, n_outputs=1)
LOOK = LookConfig(2, 4, layers=2)
WARPING = ModelConfig(
    width=2, n_outputs=3, base="warp", trunk_scale=2, looks=(LOOK,), keep_still=True
)
needs_flatbuffers = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None,
    reason="the extra export installs it",
)


defined = jax.jit(partial(flavr.apply, implementation="reference"), static_argnums=0)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny"
    checkpoint.save(path, PLAIN, flavr.init(PLAIN, jax.random.key(0)))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; returns its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["flavr export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(command.main, command.Options)
        return stop.value.code or 0, "".join(capsys.readouterr())

    return run


@needs_flatbuffers
@pytest.mark.parametrize("config", [PLAIN, WARPING], ids=["plain", "warping"])
def test_a_program_computes_what_the_network_computes(config):
    params = flavr.init(config, jax.random.key(0))
    program = export.stablehlo(config, params, (2, 32, 48))
    windows = np.random.default_rng(1).random((2, 4, 32, 48, 3), np.float32)
    expected = defined(config, params, windows)
    np.testing.assert_allclose(export.run(program, windows), expected, atol=1e-5)


@needs_flatbuffers
def test_a_program_holds_its_weights_and_runs_on_every_platform():
    params = flavr.init(PLAIN, jax.random.key(0))
    program = export.stablehlo(PLAIN, params, (1, 16, 16))
    exported = jax.export.deserialize(bytearray(program))
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    assert [each.shape for each in exported.in_avals] == [(1, 4, 16, 16, 3)]
    assert [each.shape for each in exported.out_avals] == [(1, 1, 16, 16, 3)]
    assert "custom_call" not in exported.mlir_module()  # other runtimes would not know it


@needs_flatbuffers
def test_the_command_writes_a_file_and_says_how_exact_it_is(run, network, tmp_path):
    output = tmp_path / "net.stablehlo"
    code, text = run(network, "--size", 16, 32, "--batch", 2, "--output", output)
    assert code == 0, text
    assert "float32 [2, 4, 16, 32, 3] → [2, 1, 16, 32, 3]" in text
    windows = np.zeros((2, 4, 16, 32, 3), np.float32)
    assert export.run(output.read_bytes(), windows).shape == (2, 1, 16, 32, 3)
    code, text = run(network, "--size", 16, 32, "--output", output)
    assert code == 2
    assert "exists; choose another or pass --overwrite" in text


@needs_flatbuffers
def test_a_file_that_differs_from_the_network_is_not_kept(run, network, tmp_path, monkeypatch):
    right = export.run
    monkeypatch.setattr(export, "run", lambda *arguments: right(*arguments) + 0.01)
    code, text = run(network, "--size", 16, 16, "--output", tmp_path / "net")
    assert code == 2
    assert "differs by 1.0e-02 from the original, more than `tolerance` 1.0e-03" in text
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_network_does_not_take_is_one_line(run, network, tmp_path):
    code, text = run(network, "--size", 17, 16, "--output", tmp_path / "net")
    assert code == 2
    assert "takes multiples of 8" in text


def test_without_flatbuffers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"needs flatbuffers.*\[export\]"):
        export.stablehlo(PLAIN, flavr.init(PLAIN, jax.random.key(0)), (1, 16, 16))


needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx installs it"
)
TRILINEAR = ModelConfig(
    width=2, n_outputs=1, n_inputs=6, upsampling="trilinear", batch_norm=True, join="add",
    encoder="mc3",
)  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("config", [WARPING, TRILINEAR], ids=["warping", "trilinear"])
def test_an_onnx_model_computes_what_the_network_computes(config):
    params = flavr.init(config, jax.random.key(0))
    model = export.onnx(config, params, (2, 32, 48))
    windows = np.random.default_rng(1).random((2, config.n_inputs, 32, 48, 3), np.float32)
    expected = defined(config, params, windows)
    np.testing.assert_allclose(export.run_onnx(model, windows), expected, atol=1e-5)


@needs_onnx
def test_the_command_writes_an_onnx_model_that_names_its_ends(run, network, tmp_path):
    import onnx

    output = tmp_path / "net.onnx"
    code, text = run(network, "--size", 16, 32, "--format", "onnx", "--output", output)
    assert code == 0, text
    graph = onnx.load(output).graph
    ends = [(each.name, len(each.type.tensor_type.shape.dim)) for each in graph.input]
    ends += [(each.name, len(each.type.tensor_type.shape.dim)) for each in graph.output]
    assert ends == [("windows", 5), ("frames", 5)]
    assert {"Conv", "MatMul"} <= {node.op_type for node in graph.node}
