# SPDX-License-Identifier: Apache-2.0
"""Everything that an interpolated clip depends on: only equal runs share finished segments."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import jax

import flavr_jax
from flavr_jax.inference.interpolator import DEFAULT_CHECKPOINT, Interpolator
from flavr_jax.inference.options import Options
from flavr_jax.reading.inputs import Input
from flavr_jax.video.files.encoders import Encoding
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
        source: part of the input to read.
        motion: the frames to make. The batch is left out, because a smaller one may be needed to
            continue after a lack of memory.
        encoding: compression of the output.
        checkpoint: directory of the network; None for the bundled one.
        network: the loaded network.
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
