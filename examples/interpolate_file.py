# SPDX-License-Identifier: Apache-2.0
"""Interpolate one video file into another: ``python examples/interpolate_file.py IN.mp4 OUT.mp4``.

``flavr interpolate`` does the same with options, progress and exit codes. Frames stream from
the reader through the network to the writer, so the length of the video does not matter.
"""

import sys
from pathlib import Path

import flavr_jax
from flavr_jax.inference import stream
from flavr_jax.timeline.clock import output_info
from flavr_jax.video.files import reader, sinks


def interpolate_file(path: Path, output: Path, factor: int = 4) -> None:
    """Write ``path`` to ``output`` with ``factor`` times its frame rate; sound is copied."""
    source = reader.open_source(path, headroom=True)  # keep values below black and above white
    options = stream.Options(factor=factor)
    info = output_info(source.info, options.timing)  # frame rate, size, depth, colours
    with sinks.open_sink(str(output), info, source=path) as sink:
        for frame in stream.interpolate(source, flavr_jax.load(), options):
            sink.write(frame)


if __name__ == "__main__":
    interpolate_file(Path(sys.argv[1]), Path(sys.argv[2]))
