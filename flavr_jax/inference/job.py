# SPDX-License-Identifier: Apache-2.0
"""What an interpolated clip depends on, so that only equal runs share finished work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import jax

import flavr_jax
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.inference.options import Options
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.files.inputs import Input
from flavr_jax.video.journal.job import digest_of_folder, fingerprint

__all__ = ["facts"]


def facts(
    path: Path,
    source: Input,
    motion: Options,
    encoding: Encoding,
    checkpoint: Path | None,
    network: Interpolator,
) -> dict[str, str]:
    """Return everything that the result depends on, by name, as text.

    Args:
        path: the input.
        source: what is read of it.
        motion: the frames to make; the batch does not count, since a smaller one may be needed to
            go on after a lack of memory.
        encoding: how they are stored.
        checkpoint: directory of the network; None for the bundled one.
        network: the same, loaded.
    """
    frames = dataclasses.asdict(motion)
    frames.pop("batch")
    return {
        "input": fingerprint(path),
        "source": repr(source),
        "motion": repr(frames),
        "encoding": repr(encoding),
        "checkpoint": digest_of_folder(checkpoint or DEFAULT_CHECKPOINT),
        "network": f"{network.precision}, {network.runs_on}",
        "gates": "exact" if network.tiling.passes is None else "estimated",
        "versions": repr((flavr_jax.__version__, jax.__version__, av.__version__)),
        "libraries": repr(av.library_versions),
    }
