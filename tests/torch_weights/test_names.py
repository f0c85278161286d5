# SPDX-License-Identifier: Apache-2.0
"""Every PyTorch FLAVR is recognised, becomes the same network here, or says what is wrong."""

import functools
import json
import math

import jax
import numpy as np
import pytest

from flavr_jax import torch_weights
from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr

pytestmark = pytest.mark.usefixtures("definition")

TOLERANCE = 2e-5


def config_of(case):
    """A golden case's options, from index.json's spelling to ours."""
    return ModelConfig(
        depth=34 if case.get("block") == "unet_34" else 18,
        n_inputs=case.get("n_in", 4),
        n_outputs=case.get("n_out", 1),
        join=case.get("join", "concat"),
        upsampling="trilinear" if case.get("up") == "upsample" else "transposed",
        batch_norm=case.get("bn", False),
    )


def zeros(shapes):
    """Tensors of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def predict(conversion, frames):
    network = jax.jit(functools.partial(flavr.apply, conversion.config))
    return np.asarray(network(conversion.params, frames))


@pytest.fixture(scope="module")
def official(torch_files):
    return torch_weights.read(torch_files / "official_8x_legacy.pth").tensors


def test_every_golden_variant_is_recognised_and_completely_mapped(golden, golden_shapes):
    for case in json.loads((golden / "index.json").read_text()):
        tensors = zeros(golden_shapes(case["name"]))

        conversion = torch_weights.convert(tensors)

        assert conversion.config == config_of(case), case
        assert conversion.problems() == [], case
        assert len(conversion.mapped) + len(conversion.ignored) == len(tensors), case
        shapes = jax.tree.map(lambda leaf: leaf.shape, flavr.parameter_shapes(conversion.config))
        assert jax.tree.map(np.shape, conversion.params) == shapes, case


@pytest.mark.parametrize(
    ("case", "count"),
    [
        ("flavr_2x", 42_061_571),
        ("flavr_4x", 42_084_297),
        ("flavr_8x", 42_121_941),
        ("unet34_2x", 72_926_787),
    ],
)
def test_parameter_counts_are_those_of_the_official_networks(golden_shapes, case, count):
    config = torch_weights.recognise(zeros(golden_shapes(case)))

    leaves = jax.tree.leaves(flavr.parameter_shapes(config))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_official_weights_in_a_raw_folder_give_the_official_output(
    golden, golden_shapes, golden_tensor, tmp_path
):
    for name, shape in golden_shapes("flavr_2x").items():
        file = tmp_path / f"module.{name}__{'x'.join(map(str, shape))}.bin"
        file.write_bytes(golden_tensor(name, shape).tobytes())
    stored = np.load(golden / "flavr_2x.npz")

    conversion = torch_weights.convert(torch_weights.read(tmp_path).tensors)
    outputs = predict(conversion, stored["frames"])

    assert np.abs(outputs - stored["outputs"]).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "join", "config"),
    [
        ("official_8x_legacy", None, ModelConfig(width=1, n_outputs=7)),
        ("official_2x_half", None, ModelConfig(width=2)),
        ("mc3_2x_views", "none", ModelConfig(width=1, encoder="mc3", join="none")),
        (
            "r2plus1d_2x_bfloat16",
            None,
            ModelConfig(
                width=2, encoder="r2plus1d", join="add", upsampling="trilinear", batch_norm=True
            ),
        ),
    ],
)
def test_a_file_written_by_pytorch_predicts_what_pytorch_predicts(torch_files, name, join, config):
    stored = np.load(torch_files / "outputs.npz")

    conversion = torch_weights.convert(
        torch_weights.read(torch_files / f"{name}.pth").tensors, join=join
    )
    conversion.check()

    assert conversion.config == config
    assert np.abs(predict(conversion, stored["frames"]) - stored[name]).max() <= TOLERANCE


def test_mmagic_names_lead_to_the_same_parameters_as_official_ones(
    torch_files, golden_shapes, golden_tensor
):
    mmagic = torch_weights.convert(torch_weights.read(torch_files / "mmagic_2x.pth").tensors)
    narrow = {
        name: tuple(size if size < 64 else size // 64 for size in shape)
        for name, shape in golden_shapes("flavr_2x").items()
    }
    official = torch_weights.convert(
        {name: golden_tensor(name, shape) for name, shape in narrow.items()}
    )

    assert mmagic.problems() == official.problems() == []
    assert mmagic.config == official.config == ModelConfig(width=1)
    jax.tree.map(np.testing.assert_array_equal, mmagic.params, official.params)


def test_mmagic_batch_norm_and_averaged_copies_are_understood(golden_shapes):
    renamed = {
        "encoder.stem.0.": "generator.encoder.stem_layer.conv.",
        "encoder.stem.1.": "generator.encoder.stem_layer.bn.",
        "encoder.layer2.0.conv1.1.": "generator.encoder.layer2.0.conv1.bn.",
        "encoder.layer2.0.downsample.1.": "generator.encoder.layer2.0.downsample.bn.",
        "decoder.1.upconv.2.": "generator.decoder.layer1.upconv.2.",
        "feature_fuse.conv.1.": "generator.feature_fuse.bn.",
    }
    tensors = zeros(golden_shapes("batchnorm_4x"))
    for official, mmagic in renamed.items():
        for name in [name for name in tensors if name.startswith(official)]:
            tensors[name.replace(official, mmagic)] = tensors.pop(name)
    tensors["generator_ema.encoder.stem_layer.conv.weight"] = np.zeros(1, np.float32)

    conversion = torch_weights.convert(tensors)

    assert conversion.problems() == []
    assert "generator_ema.encoder.stem_layer.conv.weight" in conversion.ignored


def test_everything_that_does_not_fit_is_listed_at_once(official):
    tensors = dict(official)
    del tensors["module.decoder.0.conv.0.weight"]
    del tensors["module.encoder.layer4.1.conv2.0.weight"]
    tensors["module.flow.weight"] = np.zeros((3, 3), np.float32)
    tensors["module.outconv.1.bias"] = np.zeros(4, np.float32)

    conversion = torch_weights.convert(tensors)

    assert conversion.missing == (
        "decoder.0.conv.0.weight",
        "encoder.layer4.1.conv2.0.weight",
    )
    assert conversion.unmapped == ("module.flow.weight",)
    assert conversion.mismatched == (("module.outconv.1.bias", (4,), (21,)),)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is looked at below
        conversion.check()
    for name in (
        "decoder.0.conv.0",
        "layer4.1.conv2",
        "module.flow",
        "(4,), this network's is (21,)",
    ):
        assert name in str(error.value)


def test_a_transposed_kernel_in_the_wrong_layout_is_a_wrong_shape(official):
    name = "module.decoder.2.upconv.0.weight"
    tensors = {**official, name: official[name].swapaxes(0, 1)}

    assert torch_weights.convert(tensors).mismatched == ((name, (1, 4, 3, 4, 4), (4, 1, 3, 4, 4)),)


def test_encoder_biases_that_the_network_cannot_have_are_explained(official):
    tensors = dict(official)
    tensors["module.outconv.1.weight"] = official["module.outconv.1.weight"][:3]
    tensors["module.outconv.1.bias"] = official["module.outconv.1.bias"][:3]

    conversion = torch_weights.convert(tensors)

    assert len(conversion.unmapped) == 17
    assert all(name.endswith(".bias") for name in conversion.unmapped)
    assert "biases if n_outputs > 1, and only then" in conversion.problems()[0]


def test_add_is_assumed_and_none_must_be_said(golden_shapes):
    tensors = zeros(golden_shapes("add_2x"))

    assert torch_weights.recognise(tensors).join == "add"
    assert torch_weights.recognise(tensors, join="none").join == "none"
    with pytest.raises(ValueError, match=r"256 channels .* use add or none"):
        torch_weights.recognise(tensors, join="concat")
    with pytest.raises(ValueError, match=r"512 channels .* use concat"):
        torch_weights.recognise(zeros(golden_shapes("flavr_2x")), join="add")


def test_another_network_is_named_as_such():
    tensors = {"conv1.weight": np.zeros((64, 3, 7, 7)), "fc.bias": np.zeros(1000)}

    with pytest.raises(ValueError, match=r"this is no FLAVR: of its 2 tensors \(conv1\.weight, fc"):
        torch_weights.recognise(tensors)


def test_two_networks_in_one_file_are_not_mixed(official):
    twice = {**official, "generator.outconv.1.bias": official["module.outconv.1.bias"]}

    with pytest.raises(ValueError, match=r"both mean `outconv\.1\.bias`"):
        torch_weights.convert(twice)
