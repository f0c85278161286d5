# SPDX-License-Identifier: Apache-2.0
"""Only where PyTorch is installed: the timed peer computes what the network computes."""

import jax
import numpy as np
import pytest

from flavr_jax.config import ModelConfig
from flavr_jax.models import flavr
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


def test_variants_without_a_peer_are_refused():
    config = ModelConfig(width=8, join="add")
    with pytest.raises(ValueError, match=r"has no .*'add'"):
        TorchPeer(config, flavr.parameter_shapes(config))
