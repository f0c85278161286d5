# SPDX-License-Identifier: Apache-2.0
"""Only where PyTorch is installed: the timed peer computes what the network computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flavr_jax.config import LookConfig, ModelConfig
from flavr_jax.models import flavr, head
from flavr_jax.profiling.torch_peer import TorchPeer


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(width=8),
        ModelConfig(width=8, n_outputs=7),
        ModelConfig(width=8, decoder_widths=(8, 4, 2, 1, 1)),
    ],
    ids=["2x", "8x", "wider decoder"],
)
def test_the_peer_predicts_what_the_network_does(config):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = flavr.init(config, jax.random.key(0))
    windows = jax.random.uniform(jax.random.key(1), (2, 4, 16, 24, 3))
    peer = TorchPeer(config, params, device="cpu", channels_last=True)
    with torch.no_grad():
        theirs = peer(torch.tensor(np.asarray(windows)).permute(0, 4, 1, 2, 3)).numpy()
    ours = np.asarray(flavr.apply(config, params, windows))
    assert np.abs(theirs.transpose(0, 1, 3, 4, 2) - ours).max() < 1e-5


def warping(**settings):
    looks = LookConfig(8, 8), LookConfig(4, 8, layers=1), LookConfig(1, 8, layers=2)
    given = {"width": 8, "n_outputs": 3, "base": "warp", "trunk_scale": 2, "looks": looks}
    return ModelConfig(**{**given, **settings})


@pytest.mark.parametrize(
    "config",
    [
        warping(flow_pairs=2, keep_still=True),  # the bundled network, narrower
        warping(looks=()),
        warping(looks=(LookConfig(2, 8), LookConfig(1, 8), LookConfig(2, 8)), flow_pairs=2),
        warping(looks=(LookConfig(1, 8),), trunk_scale=1, flow_pairs=3),
    ],
    ids=["bundled", "no look", "a coarser look last", "full size"],
)
def test_the_peer_warps_as_the_network_does(config):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = flavr.init(config, jax.random.key(0))
    looks = params.get("head", {}).get("looks", {}).values()
    for layer in (params["out"], *(look["correct"] for look in looks)):
        layer["kernel"] = 30 * layer["kernel"]  # flows of pixels, not of hundredths
    random = np.random.default_rng(1)
    windows = random.random((2, 4, 48, 64, 3)).astype(np.float32)
    windows[:, :, 8:24, 16:40] = windows[:, :1, 8:24, 16:40]  # stands still
    peer = TorchPeer(config, params, device="cpu", channels_last=True)
    given = torch.tensor(windows).permute(0, 4, 1, 2, 3)
    chosen = np.array([[2], [0]])
    with torch.no_grad():
        theirs = peer(given).permute(0, 1, 3, 4, 2).numpy()
        of_one = peer(given, outputs=torch.tensor(chosen)).permute(0, 1, 3, 4, 2).numpy()
    ours = np.asarray(flavr.apply(config, params, jnp.asarray(windows)))
    still = ours[:, :, 13:19, 24:32] - windows[:, 1:2, 13:19, 24:32]
    assert (np.abs(still).max() < 1e-5) == config.keep_still
    blend = head.blend(jnp.asarray(windows), np.array([0.25, 0.5, 0.75]))
    assert np.abs(ours - blend).max() > 1  # all parts of the head do something
    assert np.abs(theirs - ours).max() < 2e-4
    np.testing.assert_allclose(of_one[:, 0], theirs[[0, 1], chosen[:, 0]], atol=1e-5)


def test_variants_without_a_peer_are_refused():
    for config, name in (
        (ModelConfig(width=8, join="add"), "'add'"),
        (ModelConfig(width=8, base="blend"), "base blend"),
        (warping(look_up="cubic"), "cubic"),
    ):
        with pytest.raises(ValueError, match=f"has no .*{name}"):
            TorchPeer(config, flavr.parameter_shapes(config))
