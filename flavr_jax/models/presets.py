# SPDX-License-Identifier: Apache-2.0
"""Named network configurations."""

from __future__ import annotations

from typing import Literal, TypeAlias

from flavr_jax.config import LookConfig, ModelConfig

__all__ = ["PRESETS", "Preset"]

Preset: TypeAlias = Literal["flavr_2x", "flavr_4x", "flavr_8x", "flavr_2x_34", "default"]

PRESETS: dict[Preset, ModelConfig] = {
    "flavr_2x": ModelConfig(n_outputs=1),
    "flavr_4x": ModelConfig(n_outputs=3),
    "flavr_8x": ModelConfig(n_outputs=7),
    "flavr_2x_34": ModelConfig(n_outputs=1, depth=34),
    "default": ModelConfig(
        width=32,
        n_outputs=7,
        base="warp",
        trunk_scale=2,
        looks=(LookConfig(8, 96), LookConfig(4, 64), LookConfig(1, 32, layers=2)),
        flow_pairs=2,
        keep_still=True,
    ),
}
"""The paper's models by factor, its 34-layer model, and the network of the bundled checkpoint."""
