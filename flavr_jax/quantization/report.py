# SPDX-License-Identifier: Apache-2.0
"""The choice of feature maps as a table to print, and as plain values for the checkpoint."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from flavr_jax.quantization.calibration import PsnrLoss
from flavr_jax.quantization.choice import Selection

__all__ = ["as_json", "table"]


def table(selection: Selection) -> Table:
    """Return a table with a line for each feature map."""
    lines = Table("feature map", "largest", "lost alone, dB", "worst clip, dB", "stored in")
    rows = [
        (each.name, f"{each.largest:.3g}", each.alone, each.in_8_bits) for each in selection.maps
    ]
    if selection.everything:
        rows.append(("all of them", "", selection.everything, True))
    for name, magnitude, loss, in_8_bits in rows:
        losses = (f"{loss.mean:.4f}", f"{loss.worst:.4f}") if loss else ("", "")
        lines.add_row(name, magnitude, *losses, "fp8" if in_8_bits else "bf16")
    lines.add_row(
        "as chosen", "", f"{selection.chosen.mean:.4f}", f"{selection.chosen.worst:.4f}", ""
    )
    return lines


def as_json(selection: Selection) -> dict[str, Any]:
    """Return the choice and its measurements in plain values."""
    return {
        **_plain(selection.chosen, ""),
        **_plain(selection.everything, "_of_everything"),
        "share_of_products": selection.share,
        "maps": {
            each.name: {
                "stored": "fp8" if each.in_8_bits else "bf16",
                "largest": each.largest,
                **_plain(each.alone, "_alone"),
            }
            for each in selection.maps
        },
    }


def _plain(loss: PsnrLoss | None, suffix: str) -> dict[str, float]:
    return {f"loss_mean{suffix}": loss.mean, f"loss_worst{suffix}": loss.worst} if loss else {}
