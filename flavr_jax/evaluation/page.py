# SPDX-License-Identifier: Apache-2.0
"""A quality report of a clip as one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from flavr_jax.evaluation.leave_one_out import Moment, Shot, shots
from flavr_jax.partial import written_whole
from flavr_jax.typing import Frame

__all__ = ["weakest", "write_page"]

_WEAKEST = 6
_AMPLIFY = 4  # differences are shown so many times larger
_PLOT = (900, 160)  # pixels
_UNITS = {"PSNR": " dB"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1580px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2em .9em; text-align: right; }
td { white-space: nowrap; } tr { border-bottom: 1px solid #ddd; }
.pictures { display: grid; gap: .6em; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
figure { margin: 0; } img { width: 100%; height: auto; }
figcaption, text { color: #555; font-size: 13px; }
svg { background: #f6f6f6; width: 100%; max-width: 900px; }
"""


def write_page(path: Path, title: str, found: list[Moment], notes: list[str]) -> None:
    """Write a report: scores of each shot, a plot over time, and the weakest moments.

    Args:
        path: the file; it appears when it is complete.
        title: of the page.
        found: the scored frames, in order.
        notes: lines of text about the run.

    Raises:
        ValueError: there is no scored frame.
        OSError: the file cannot be written.
    """
    if not found:
        raise ValueError(
            "no frame could be left out: every shot is shorter than 7 frames, or has no frame "
            "with enough context. Use a longer clip."
        )
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        "<h2>Shots</h2>",
        _table(shots(found)),
        "<h2>PSNR over time</h2>",
        _plot(found),
        "<h2>Weakest moments</h2>",
        *map(_row, weakest(found)),
    ]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>"
    )
    with written_whole(path) as partial:
        # Names of files may hold bytes that are no UTF-8.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def weakest(found: list[Moment]) -> list[Moment]:
    """Return the moments with the lowest PSNR, the weakest first."""
    return sorted(found, key=lambda each: each.scores["PSNR"])[:_WEAKEST]


def _table(rows: list[Shot]) -> str:
    names = list(rows[0].means)
    heads = ["shot", "from", "frames"]
    heads += [f"{name}, {word}" for name in names for word in ("mean", "worst")]
    heads += ["PSNR of averaging"]
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = [str(row.number + 1), _time(row), str(row.count)]
        for name in names:
            cells += [_value(name, row.means[name]), _value(name, row.worst[name])]
        cells.append(_value("PSNR", row.average))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _plot(found: list[Moment]) -> str:
    """Return a drawing of PSNR over time; shots are separate lines."""
    width, height = _PLOT
    times = np.array([float(each.pts) for each in found])
    values = np.array([each.scores["PSNR"] for each in found])
    low, high = float(values.min()), float(values.max())
    x = (times - times[0]) / max(times[-1] - times[0], 1e-9) * (width - 90) + 70
    y = height - 35 - (values - low) / max(high - low, 1e-9) * (height - 50)
    # The extremes of both axes, and lines at those of PSNR.
    lines = []
    for value, place in ((high, 15), (low, height - 35)):
        lines.append(f'<line x1="70" x2="{width - 20}" y1="{place}" y2="{place}" stroke="#ccc"/>')
        lines.append(f'<text x="62" y="{place + 4}" text-anchor="end">{value:.1f} dB</text>')
    for time, place in ((times[0], "start"), (times[-1], "end")):
        at = 70 if place == "start" else width - 20
        lines.append(f'<text x="{at}" y="{height - 8}" text-anchor="{place}">{time:.2f} s</text>')
    for shot in dict.fromkeys(each.shot for each in found):
        places = [n for n, each in enumerate(found) if each.shot == shot]
        points = " ".join(f"{x[n]:.1f},{y[n]:.1f}" for n in places)
        lines.append(f'<polyline fill="none" stroke="#06c" points="{points}"/>')
        lines += [f'<circle cx="{x[n]:.1f}" cy="{y[n]:.1f}" r="2" fill="#06c"/>' for n in places]
    return f'<svg viewBox="0 0 {width} {height}">{"".join(lines)}</svg>'


def _row(moment: Moment) -> str:
    """Return the pictures of a moment, with a heading."""
    before, made, truth, after = moment.pictures
    off = np.abs(made.astype(np.int16) - truth) * _AMPLIFY
    difference = np.minimum(off, 255).astype(np.uint8)
    scores = ", ".join(f"{name} {_value(name, v)}" for name, v in moment.scores.items())
    titles = ("before", "made", "left out", "after", f"difference, {_AMPLIFY} times")
    figures = (
        f'<figure><img alt="{title}" src="{_source(picture)}">'
        f"<figcaption>{title}</figcaption></figure>"
        for title, picture in zip(titles, (before, made, truth, after, difference))
    )
    head = f"{float(moment.pts):.3f} s, shot {moment.shot + 1}: {scores}"
    return f'<h3>{head}</h3><div class="pictures">{"".join(figures)}</div>'


def _source(picture: Frame) -> str:
    """Return a picture as a data URL."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _time(shot: Shot) -> str:
    return f"{float(shot.start):.2f} s"


def _value(name: str, value: float) -> str:
    return f"{value:.2f}{_UNITS[name]}" if name in _UNITS else f"{value:.4f}"
