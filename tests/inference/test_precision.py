# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools

import jax
import numpy as np
import pytest

import flavr_jax
from flavr_jax import checkpoint
from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.inference import precision as precisions
from flavr_jax.inference.precision import prepare
from flavr_jax.models import flavr, quantized
from flavr_jax.models.layers import assume_hopper
from flavr_jax.models.presets import PRESETS

pytestmark = pytest.mark.usefixtures("shallow")

CONFIG = ModelConfig(width=32, n_outputs=1)


@functools.cache
def all_scales():
    """A scale for every feature map that may have 8 bits; finding these traces the network."""
    return dict.fromkeys(quantized.feature_maps(CONFIG), 0.02)


@pytest.fixture(scope="module")
def params():
    return flavr.init(CONFIG, jax.random.key(0))


@pytest.fixture
def on_gpu(monkeypatch):
    """As far as the choice can see, the device is a GPU; of which kind is up to the test."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def dtypes(prepared):
    return {leaf.dtype.name for leaf in jax.tree.leaves(prepared.params)}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_a_precision_by_name_is_that_one_with_scales_or_without(params, precision, dtype):
    for scales in (None, all_scales()):
        prepared = prepare(CONFIG, params, precision, scales)
        assert prepared.precision == precision
        assert dtypes(prepared) == {dtype}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_is_not_traced_to_start_without_8_bit_maps(params, precision, monkeypatch):
    monkeypatch.setattr(quantized, "convolutions", lambda config: pytest.fail("it was traced"))
    assert prepare(CONFIG, params, precision).precision == precision


def test_8_bits_are_for_kernels_and_16_for_the_rest(params):
    prepared = prepare(CONFIG, params, "fp8", all_scales())
    assert prepared.precision == "fp8"
    assert {"float8_e4m3fn", "bfloat16"} <= dtypes(prepared)
    assert prepared.params["out"]["kernel"].dtype == "bfloat16"


def test_the_program_that_packs_8_bits_is_kept_between_runs(params, tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with assume_hopper():
            plain = prepare(CONFIG, params, "fp8", all_scales())
            first = prepare(CONFIG, params, "fp8", all_scales(), remember=True)
            monkeypatch.setattr(jax, "jit", None)  # nothing may be compiled any more
            again = prepare(CONFIG, params, "fp8", all_scales(), remember=True)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert jax.tree.structure(plain.params) == jax.tree.structure(again.params)
    for expected, *others in zip(*(jax.tree.leaves(each.params) for each in (plain, first, again))):
        assert others[0].dtype == others[1].dtype == expected.dtype
        np.testing.assert_array_equal(np.float32(others[0]), np.float32(others[1]))
        # In one program, jax 0.10 rounds a few weights to the neighbouring number of 8 bits.
        rtol, atol = (1 / 7, 2**-9) if jax.__version_info__ < (0, 11) else (0, 0)
        np.testing.assert_allclose(
            np.float32(others[0]), np.float32(expected), rtol=rtol, atol=atol
        )


def test_8_bits_on_a_device_without_kernels_for_them_are_called_slow(params):
    assert "many times slower here than `precision` auto: " in str(
        prepare(CONFIG, params, "fp8", all_scales())
    )
    with assume_hopper():
        assert "slower" not in str(prepare(CONFIG, params, "fp8", all_scales()))


def test_8_bits_without_scales_name_the_script_that_makes_them(params):
    with pytest.raises(ValueError, match=r"`flavr quantize CHECKPOINT --output DIR"):
        prepare(CONFIG, params, "fp8")


def test_an_unknown_precision_is_refused(params):
    with pytest.raises((ValueError, TypeError), match="int4"):
        prepare(CONFIG, params, "int4")  # pyright: ignore[reportArgumentType]


def test_auto_is_float32_on_a_cpu_and_says_so(params):
    prepared = prepare(CONFIG, params, "auto", all_scales())
    assert (prepared.precision, dtypes(prepared)) == ("fp32", {"float32"})
    assert str(prepared) == "cpu (cpu) in fp32 (the device is a CPU)"


WARP = ModelConfig(width=4, n_outputs=1, base="warp", trunk_scale=2, looks=(LookConfig(2, 4),))


@pytest.mark.parametrize("why_not", [None, "the CPU is too old"])
def test_auto_is_int8_for_a_warping_head_where_a_cpu_multiplies_it_fast(why_not, monkeypatch):
    monkeypatch.setattr(precisions, "why_not_int8", lambda: why_not)
    plain = flavr.init(WARP, jax.random.key(0))
    prepared = prepare(WARP, plain, "auto")
    if why_not is None:
        assert prepared.precision == "int8"
        assert dtypes(prepared) == {"float32", "int8"}
    else:
        assert (prepared.precision, prepared.reason) == ("fp32", "not int8: the CPU is too old")
        assert "slower" in prepare(WARP, plain, "int8").reason


def test_int8_is_near_float32_and_a_batch_does_not_change_it():
    # The look at an eighth of the size is the one at a quarter with more channels.
    config = dataclasses.replace(PRESETS["default"], looks=PRESETS["default"].looks[1:])
    plain = flavr.init(config, jax.random.key(0))
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    made = {}
    for precision in ("fp32", "int8"):
        network = flavr_jax.Interpolator(config, plain, precision=precision)
        made[precision] = np.asarray(network.between(frames, 2)).astype(int)
    np.testing.assert_array_equal(made["int8"][0], np.asarray(network.between(frames[:4], 2))[0])
    difference = np.abs(made["int8"] - made["fp32"])
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 8


def test_int8_is_refused_on_a_gpu(params, on_gpu):
    with pytest.raises(ValueError, match="int8, which is for CPUs"):
        prepare(CONFIG, params, "int8")


def test_auto_is_8_bits_on_a_hopper_gpu_where_there_are_scales(params, on_gpu):
    with assume_hopper():
        assert prepare(CONFIG, params, "auto", all_scales()).precision == "fp8"
        without = prepare(CONFIG, params, "auto")
    assert without.precision == "bf16"
    assert "the checkpoint has no scales" in without.reason


def test_auto_is_8_bits_for_a_warping_head_too(on_gpu):
    # Its 2-D convolutions and its look-up never have 8 bits.
    config = ModelConfig(
        width=32, n_outputs=1, base="warp", trunk_scale=2, looks=(LookConfig(2, 16),)
    )
    scales = dict.fromkeys(quantized.feature_maps(config), 0.02)
    with assume_hopper():
        prepared = prepare(config, flavr.init(config, jax.random.key(0)), "auto", scales)
    assert prepared.precision == "fp8"


def test_auto_is_16_bits_on_another_gpu_and_says_why(params, on_gpu):
    prepared = prepare(CONFIG, params, "auto", all_scales())
    assert (prepared.precision, dtypes(prepared)) == ("bf16", {"bfloat16"})
    assert "Hopper" in prepared.reason


def test_auto_is_16_bits_where_the_kernels_do_not_fit_the_network(on_gpu):
    narrow = ModelConfig(width=4, n_outputs=1)
    scales = dict.fromkeys(quantized.feature_maps(narrow), 0.02)
    with assume_hopper():
        prepared = prepare(narrow, flavr.init(narrow, jax.random.key(0)), "auto", scales)
    assert prepared.precision == "bf16"
    assert "channels" in prepared.reason


def test_a_loaded_network_computes_in_8_bits_with_the_scales_of_its_checkpoint(tmp_path):
    config = ModelConfig(width=2, n_outputs=1, base="blend")
    params = flavr.init(config, jax.random.key(0))
    scales = {"encoder/stem": 0.02, "encoder/layer1/0/conv1": 0.02}
    path = tmp_path / "calibrated"
    checkpoint.save(path, config, params, quantization=checkpoint.Quantization(scales))
    windows = np.random.default_rng(0).random((1, 4, 16, 16, 3), np.float32)
    exact, narrow = (flavr_jax.load(path, precision=p) for p in ("fp32", "fp8"))
    assert (exact.precision, narrow.precision) == ("fp32", "fp8")
    assert "fp8" in narrow.runs_on
    kernel = narrow._params["encoder"]["layer1"]["0"]["conv1"]["kernel"]
    assert kernel.dtype == "float8_e4m3fn"
    assert np.asarray(kernel.out_scale) == np.float32(0.02)
    assert 0 < np.abs(exact.predict(windows) - narrow.predict(windows)).max() < 0.01
