# SPDX-License-Identifier: Apache-2.0
"""Score PyTorch weights: ``python examples/evaluate_converted.py FLAVR_2x.pth CLIPS``.

CLIPS is a folder of videos, or of folders of images. Every second frame is an input; the frames
in between are predicted and compared with the true ones. PyTorch is not needed.
"""

import sys
from pathlib import Path

from flavr_jax import evaluation, torch_weights
from flavr_jax.data.sources import data_set
from flavr_jax.evaluation.baselines import BASELINES
from flavr_jax.inference.interpolator import Interpolator


def evaluate_converted(weights: Path, clips: Path) -> dict[str, float]:
    """Return the mean PSNR in dB of the network and of averaging the two nearest frames."""
    conversion = torch_weights.convert(torch_weights.read(weights).tensors)
    if problems := conversion.problems():
        raise ValueError(f"{weights} does not fit: {', '.join(map(str, problems))}.")
    network = Interpolator(conversion.config, conversion.params, precision="fp32")

    sequences = data_set("folder-2x").read(clips)
    methods = {
        weights.name: evaluation.method_of_network(network.predict, network.config.n_outputs),
        "averaging": BASELINES["frame-averaging"],
    }
    return {
        name: evaluation.mean(evaluation.score(method, sequences), "sequences")["psnr_uint8"]
        for name, method in methods.items()
    }


if __name__ == "__main__":
    for name, psnr in evaluate_converted(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(f"{name}: {psnr:.2f} dB")
