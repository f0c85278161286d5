# SPDX-License-Identifier: Apache-2.0
"""Scores as tables to print and as plain values, with a card that states the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from flavr_jax.data.sources import DataSet
from flavr_jax.evaluation.scoring import Sample, mean, means_of_sequences

__all__ = ["as_json", "card", "of_methods", "of_sequences"]

_COLUMNS = {
    "psnr_flavr": ("PSNR", ".2f"),
    "psnr_uint8": ("PSNR of 8 bits", ".2f"),
    "ssim_flavr": ("SSIM 3-D", ".4f"),
    "ssim_2d": ("SSIM 2-D", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "error_absolute": ("IE abs.", ".2f"),
    "error_rms": ("IE RMS", ".2f"),
    "laplacian_ratio": ("sharpness", ".3f"),
    "seconds": ("s/frame", ".3f"),
}


def card(data_set: DataSet, scores: Mapping[str, list[Sample]]) -> Table:
    """Return the protocol: which frames, which crop, which average, published numbers."""
    samples = next(iter(scores.values()))
    sequences = {sample.sequence for sample in samples}
    grid = Table.grid(padding=(0, 2))
    for heading, text in data_set.card():
        grid.add_row(heading, text)
    grid.add_row("scored", f"{len(samples)} frames of {len(sequences)} sequences")
    grid.title, grid.title_justify = f"{data_set.name}", "left"
    return grid


def of_methods(data_set: DataSet, scores: Mapping[str, list[Sample]]) -> Table:
    """Return a table with a row per method and a column per metric."""
    table = Table(title="mean over " + data_set.average, title_justify="left")
    table.add_column("method")
    means = {name: mean(samples, data_set.average) for name, samples in scores.items()}
    shown = [name for name in _COLUMNS if all(name in row for row in means.values())]
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right")
    for method, row in means.items():
        table.add_row(method, *(format(row[name], _COLUMNS[name][1]) for name in shown))
    return table


def of_sequences(scores: Mapping[str, list[Sample]], *, at_most: int = 30) -> Table | None:
    """Return PSNR by sequence (rows) and method (columns); None if it would not fit a screen."""
    by_method = {method: means_of_sequences(samples) for method, samples in scores.items()}
    names = next(iter(by_method.values()))
    if not 1 < len(names) <= at_most:
        return None
    table = Table(title="PSNR of each sequence", title_justify="left")
    table.add_column("sequence")
    for method in by_method:
        table.add_column(method, justify="right")
    for name in names:
        table.add_row(name, *(f"{of[name]['psnr_flavr']:.2f}" for of in by_method.values()))
    return table


def as_json(data_set: DataSet, scores: Mapping[str, list[Sample]]) -> dict[str, Any]:
    """Return the card and every method's means, overall and by sequence, in plain values."""
    return {
        "protocol": dict(data_set.card()),
        "methods": {
            method: {
                "mean": mean(samples, data_set.average),
                "sequences": means_of_sequences(samples),
            }
            for method, samples in scores.items()
        },
    }
