# SPDX-License-Identifier: Apache-2.0
"""Score a network and classical methods of motion magnification on synthetic clips."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

from flavr_jax import program_cache
from flavr_jax.bundled import MAGNIFY_CHECKPOINT
from flavr_jax.evaluation import magnification
from flavr_jax.evaluation.magnification import Band, Clip, Method
from flavr_jax.inference import magnify


@dataclasses.dataclass(frozen=True)
class Options:
    """Print a table of PSNR against the exact truth, by factor and noise.

    The clips show vibrating, textured objects; see flavr_jax/evaluation/magnification.py.
    """

    checkpoint: Positional[Path] = MAGNIFY_CHECKPOINT
    """Checkpoint directory of a network that magnifies motion."""
    factors: tuple[float, ...] = (5.0, 10.0, 20.0)
    """Factors by which motion is magnified."""
    noise: tuple[float, ...] = (0.0, 1.0, 2.0)
    """Standard deviations of the noise in the clips, in percent of white."""
    baselines: tuple[str, ...] = tuple(magnification.BASELINES)
    """Classical methods to score too; give the flag no names to skip them."""
    clips: int = 8
    """Number of clips for each factor and noise."""
    size: int = 128
    """Side of the square frames in pixels, a multiple of 8."""
    seed: int = 0
    """Seed of the clips."""


def main(options: Options) -> None:
    """Print the table, row by row."""
    unknown = set(options.baselines) - set(magnification.BASELINES)
    if unknown:
        raise ValueError(
            f"`baselines` has {sorted(unknown)}; choose from {list(magnification.BASELINES)}."
        )
    program_cache.enable()
    network = magnify.load(options.checkpoint)
    methods: dict[str, Method] = {name: magnification.BASELINES[name] for name in options.baselines}
    methods["network"] = functools.partial(by_network, network)
    print("| factor | noise | unchanged | " + " | ".join(methods) + " |")
    print("| --- " * (3 + len(methods)) + "|")
    for factor in options.factors:
        for noise in options.noise:
            scores = magnification.compare(
                methods,
                factor,
                noise / 100,
                clips=options.clips,
                size=options.size,
                seed=options.seed,
            )
            values = " | ".join(f"{value:.2f}" for value in scores.values())
            print(f"| {factor:g} | {noise:g} % | {values} |", flush=True)


def by_network(
    network: magnify.Network, clip: Clip, factor: float, band: Band | None = None
) -> Clip:
    """Magnify all motion since the first frame of a clip; ``band`` is ignored."""
    ends = np.clip(np.arange(-1, len(clip) + 1), 0, len(clip) - 1)
    first = np.broadcast_to(clip[0], clip.shape)
    windows = np.stack([first, clip[ends[:-2]], clip, clip[ends[2:]]], axis=1)
    return np.asarray(network(jnp.asarray(windows), factor)[:, 0])
