# SPDX-License-Identifier: Apache-2.0
"""Files beside an output that show how good it is: a preview, a comparison and a report."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from flavr_jax.commands.interpolate import Options
from flavr_jax.evaluation import leave_one_out, page
from flavr_jax.evaluation.scoring import perceptual_metric
from flavr_jax.inference.interpolator import Interpolator
from flavr_jax.progress import Reporter
from flavr_jax.video import side_by_side
from flavr_jax.video.files import sinks
from flavr_jax.video.files.encoders import Encoding
from flavr_jax.video.frames import FrameSource
from flavr_jax.video.stills.images import is_linear

__all__ = ["inspect", "names_of"]

PREVIEW = Fraction(3)  # seconds
_WIDEST = 2560  # pixels of a comparison for browsers; decoders of phones end at 4096
_MOST_SCORED = 200  # frames of a report


def names_of(output: str, options: Options) -> dict[str, Path]:
    """Return the names of the files to make, by what they are."""
    base = Path(output)
    name = base.stem if sinks.is_video_name(output) else base.name
    wanted = {
        "sheet": (options.output.preview, "_preview.png"),
        "preview": (options.output.preview, "_preview.mp4"),
        "compare": (options.output.compare, "_compare.mp4"),
        "report": (options.output.report, "_report.html"),
    }
    return {
        what: base.with_name(name + ending) for what, (asked, ending) in wanted.items() if asked
    }


def inspect(
    path: Path,
    output: str,
    written: Callable[[], FrameSource],
    options: Options,
    network: Interpolator,
    report: Reporter,
) -> None:
    """Make the files that the options ask for, and tell their names.

    Args:
        path: the input.
        output: name of the finished output.
        written: opens the output.
        options: those of the run.
        network: scores frames that are left out.
        report: is told of each file.

    Raises:
        OSError: one cannot be written.
    """
    for what, target in names_of(output, options).items():
        report.tell("stage", what=what)
        if what == "sheet":
            side_by_side.write_sheet(target, written())
        elif what == "report":
            try:
                _write_report(target, path, options, network, report)
            except ValueError as error:  # the clip is too short; the output is good all the same
                report.warn(f"There is no report: {error}")
                continue
        else:
            length = PREVIEW if what == "preview" else None
            _write_pairs(target, path, written(), options, length, report)
        report.say(f"{what}: {target}")
        report.tell("file", what=what, path=str(target))


def _write_pairs(
    target: Path,
    path: Path,
    written: FrameSource,
    options: Options,
    length: Fraction | None,
    report: Reporter,
) -> None:
    """Write the source beside the output, up to a length in seconds."""
    source = options.source.open(path)
    info = side_by_side.beside_info(written.info)
    stretch = Fraction(options.motion.timing.stretch)
    pairs = side_by_side.beside(source, written, stretch=stretch)
    if length is not None:
        pairs = itertools.takewhile(lambda frame: frame.pts < length, pairs)
    encoding = Encoding(preset=options.encoding.preset)
    if options.output.browser:
        by = -(-info.width // _WIDEST)
        info, pairs = side_by_side.shrunk_info(info, by), side_by_side.shrunk(pairs, by)
        encoding = Encoding("h264", preset=options.encoding.preset, pixel_format="yuv420p")
    total = info.frame_count if length is None else None
    with sinks.open_sink(
        str(target), info, source=None, encoding=encoding, overwrite=options.output.overwrite
    ) as sink:
        for frame in report.track(pairs, total):
            sink.write(frame)


def _write_report(
    target: Path, path: Path, options: Options, network: Interpolator, report: Reporter
) -> None:
    """Write the report of leaving frames out, and tell programs of the weakest moments."""
    source = options.source.open(path)
    count = source.info.frame_count or 0
    every = max(1, -(-count // _MOST_SCORED))
    scores, notes = dict(leave_one_out.SCORES), []
    try:
        scores["LPIPS"] = perceptual_metric()
    except ModuleNotFoundError as error:
        notes.append(f"Without LPIPS: {error}")
    linear = is_linear(source.info)
    moments = leave_one_out.moments(source, network, scores, every=every, linear=linear)
    found = list(report.track(moments, None))
    notes += [
        f"{network.runs_on}. {len(found)} frames were left out one by one"
        + (f" (every {every}th)" if every > 1 else "")
        + " and made again from every second frame around them. The network has to bridge twice "
        "the usual motion there, so the frames that it makes for the clip are better than these.",
    ]
    page.write_page(target, f"Quality of interpolation: {path.name}", found, notes)
    weakest = [
        {"time": float(each.pts), "shot": each.shot, "scores": each.scores}
        for each in page.weakest(found)
    ]
    report.tell("weakest", moments=weakest)
