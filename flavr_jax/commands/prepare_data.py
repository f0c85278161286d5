# SPDX-License-Identifier: Apache-2.0
"""Pack a data set for training: ``flavr prepare-data NAME --source DIR --output DIR``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import cli
from flavr_jax.data import array_record, sources
from flavr_jax.timeline import cuts


@dataclasses.dataclass(frozen=True)
class Options:
    """Pack a data set into a few large files for fast random access; see docs/data.md."""

    dataset: Positional[str]
    """Name of the data set; folder-2x for your own clips. The error for an unknown name lists the
    known ones."""
    source: Path
    """Folder of the unpacked data set, in its official layout."""
    output: Path
    """Folder to create for the packed files."""
    encoding: array_record.Encoding = "original"
    """Image format of frames. original copies image files byte for byte; png is lossless; raw is
    lossless, largest and fastest to read; jpeg (quality 95) is lossy and smallest."""
    short_side: int | None = None
    """Reduce larger frames to this many pixels on their shorter side; not with --encoding
    original."""
    cuts: bool = True
    """Split clips of `folder-…` sets at cuts, so that no window spans two scenes; --no-cuts leaves
    them whole."""
    threads: int = 8
    """Number of frames encoded in parallel."""


def main(options: Options) -> None:
    """Pack the data set, show progress on stderr and print a summary."""
    data_set = sources.data_set(options.dataset)
    sequences = data_set.read(options.source, find_cuts=cuts.find_cuts if options.cuts else None)
    n_frames = sum(len(sequence.clip) for sequence in sequences)

    def track(frames: Iterable[bytes]) -> Iterable[bytes]:
        return cli.track(frames, n_frames)

    array_record.pack(
        sequences,
        options.output,
        name=options.dataset,
        encoding=options.encoding,
        short_side=options.short_side,
        threads=options.threads,
        track=track,
    )
    size = sum(path.stat().st_size for path in options.output.iterdir())
    print(
        f"{options.output}: {len(sequences)} clips, {n_frames} frames, {size / 1e6:.1f} MB, "
        f"{sum(map(len, sequences))} windows of the protocol"
    )
