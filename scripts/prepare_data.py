# SPDX-License-Identifier: Apache-2.0
"""Pack a data set for training: ``scripts/prepare_data.py NAME --source DIR --output DIR``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

from tyro.conf import Positional

from flavr_jax import cli
from flavr_jax.data import array_record, sources
from flavr_jax.timeline import shots


@dataclasses.dataclass(frozen=True)
class Options:
    """Pack a data set into a few large files that are read at random; see docs/data.md."""

    dataset: Positional[str]
    """Which data set; an unknown name lists the known ones. Your own clips: folder-2x."""
    source: Path
    """Folder that it was unpacked to, in its official layout."""
    output: Path
    """New folder for the shards."""
    encoding: array_record.Encoding = "original"
    """original: the very files; png, raw: exact as well, raw is large and quick; jpeg: smallest."""
    short_side: int | None = None
    """Scale frames down to so many pixels on their shorter side."""
    cuts: bool = True
    """Split videos of `folder-…` sets at cuts, so that no window spans two scenes."""
    threads: int = 8
    """How many frames are encoded at once."""


def main(options: Options) -> None:
    """Pack, with progress on stderr, and say what there is now."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    data_set = sources.data_set(options.dataset)
    sequences = data_set.read(options.source, find_cuts=shots.find_cuts if options.cuts else None)
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


if __name__ == "__main__":
    cli.run(main, Options)
