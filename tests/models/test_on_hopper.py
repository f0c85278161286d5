# SPDX-License-Identifier: Apache-2.0
"""The network on Hopper's kernels, as far as a machine without a GPU can tell: it lowers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels as pk
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr, quantized
from flavr_jax.models.presets import PRESETS
from pallas_kernels.core import device
from pallas_kernels.hopper import launch
from pallas_kernels.hopper.conv.kernel import implicit_gemm


def abstract(config, dtype, batch, height, width):
    if dtype == "fp8":
        scales = dict.fromkeys(quantized.feature_maps(config), 1.0)
        params = quantized.packed_shapes(config, jnp.bfloat16, scales)
    else:
        params = flavr.parameter_shapes(config, dtype)
    return params, jax.ShapeDtypeStruct((batch, config.n_inputs, height, width, 3), jnp.float32)


@pytest.mark.parametrize(
    ("preset", "dtype", "batch", "height", "width"),
    [
        ("flavr_2x", "float16", 1, 720, 1280),  # bfloat16: tests/training/test_step_on_hopper.py
        ("default", "fp8", 2, 272, 464),
    ],
)
def test_every_convolution_lowers_for_a_hopper_gpu(preset, dtype, batch, height, width):
    config = PRESETS[preset]
    apply = jax.jit(partial(flavr.apply, config))  # traced once, by explain
    arguments = abstract(config, dtype, batch, height, width)
    with pk.assume_hopper():
        choices = pk.explain(apply, *arguments)
        lowered = apply.trace(*arguments).lower(lowering_platforms=("cuda",))
    assert all(choice.implementation == "mosaic_gpu" for choice in choices)
    # A look also convolves what it sees, the frames as they are and the features, and corrects.
    convolutions = 27 + sum(look.layers + 4 for look in config.looks)
    # Every look warps both frames, and the head mixes them.
    warps = len(config.looks) + 1 if config.base == "warp" else 0
    # Corrections are added for the second coarse look, and before the fine one.
    coarse = sum(look.scale > config.trunk_scale for look in config.looks)
    assert len(choices) == convolutions + warps + coarse
    assert "mosaic_gpu" in lowered.as_text()


def test_only_maps_that_a_gate_reads_get_channel_totals(monkeypatch):
    config, totals = PRESETS["flavr_2x"], []

    def recorded(*args, **options):
        totals.append(options["totals"])
        return implicit_gemm(*args, **options)

    monkeypatch.setattr(launch, "implicit_gemm", recorded)
    with pk.assume_hopper():
        jax.eval_shape(partial(flavr.apply, config), *abstract(config, "bfloat16", 1, 64, 64))
    # The stem, the first convolution of 8 blocks, the last block of 4 stages, and 4 of the
    # decoder's stages. Not the first block of a stage, shortcuts, or the last stage.
    assert totals.count(True) == 1 + 8 + 4 + 4


@pytest.mark.parametrize(
    "variant",
    [
        {"join": "add", "batch_norm": True},
        {"encoder": "r2plus1d"},
        {"encoder": "mc3", "n_inputs": 5, "upsampling": "trilinear"},
    ],
    ids=str,
)
def test_variants_take_the_kernels_where_they_can_and_say_where_not(variant):
    config = ModelConfig(width=32, **variant)
    arguments = abstract(config, jnp.bfloat16, 1, 64, 64)
    with pk.assume_hopper():
        choices = pk.explain(partial(flavr.apply, config), *arguments)
    refused = [choice for choice in choices if choice.implementation != "mosaic_gpu"]
    assert all(choice.operation == "gate" or "multiples of 16" in str(choice) for choice in refused)
    assert len(refused) < len(choices) / 2
    if config.encoder == "r2plus1d":
        assert not [choice for choice in refused if "conv3d" in choice.operation]


def test_float32_runs_on_xla_except_for_look_ups():
    config = PRESETS["default"]
    with pk.assume_hopper():
        choices = pk.explain(
            partial(flavr.apply, config), *abstract(config, jnp.float32, 1, 64, 64)
        )
    look_ups = "sample", "warp_and_mix", "refine"
    found = {(choice.operation in look_ups, choice.implementation) for choice in choices}
    assert found == {(False, "xla"), (True, "mosaic_gpu")}


def network(preset, size):
    config = PRESETS[preset]
    params = flavr.init(config, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (2, config.n_inputs, *size, 3))
    return config, params, windows


on_a_gpu = pytest.mark.skipif(device.why_not() is not None, reason="needs a Hopper GPU")
on_networks = pytest.mark.parametrize(
    ("preset", "size"),
    [("flavr_2x", (72, 104)), ("flavr_8x", (16, 16)), ("default", (256, 448))],
)


@pytest.mark.gpu
@on_a_gpu
@on_networks
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-2), ("float16", 2e-3)])
def test_the_network_on_the_gpu_is_close_to_float32(preset, size, dtype, tolerance):
    config, params, windows = network(preset, size)
    with jax.default_matmul_precision("highest"):
        exact = flavr.apply(config, params, windows, implementation="xla")
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    ours = jax.jit(partial(flavr.apply, config, implementation="mosaic_gpu"))(half, windows)
    assert jnp.linalg.norm(ours - exact) < tolerance * jnp.linalg.norm(exact)


@pytest.mark.gpu
@on_a_gpu
@on_networks
def test_the_network_of_8_bits_on_the_gpu_is_its_definition(preset, size):
    config, params, windows = network(preset, size)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    largest = jax.jit(partial(quantized.ranges, config))(half, windows)
    scales = quantized.scales_for({name: float(value) for name, value in largest.items()})
    packed = quantized.pack(config, half, scales, implementation="mosaic_gpu")
    # On a CPU, because a GPU's XLA leaves out conversions to bfloat16 and back.
    exact, definition = defined(config, (params, packed), windows)
    ours = jax.jit(partial(flavr.apply, config, implementation="mosaic_gpu"))(packed, windows)
    rounding = np.linalg.norm(definition - exact)
    assert np.linalg.norm(ours - exact) < 1.1 * rounding
    # A sum that is a little off may be rounded the other way, by up to a sixteenth. Errors of both
    # would be independent at the square root of 2. Sums of 14 bits give 0.75, float32 in another
    # order 0.45 (emulated).
    assert np.linalg.norm(ours - definition) < rounding
    assert rounding < 0.2 * np.linalg.norm(exact - exact.mean())


def defined(config, versions, windows):
    """What the definition makes of each version of the parameters, computed on the CPU."""
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        apply = jax.jit(partial(flavr.apply, config, implementation="reference"))
        given = [jax.device_put((params, windows), cpu) for params in versions]
        return [np.asarray(apply(*each)) for each in given]
