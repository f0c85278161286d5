# SPDX-License-Identifier: Apache-2.0
"""Scores of interpolation methods on data sets: networks and baselines in one table."""

from flavr_jax.evaluation.boundaries import score_boundaries
from flavr_jax.evaluation.outputs import PredictionWriter, WorstCases, write_csv
from flavr_jax.evaluation.scoring import (
    METRICS,
    Method,
    Metric,
    Outcome,
    Sample,
    mean,
    means_of_sequences,
    method_of_network,
    perceptual_metric,
    score,
)

__all__ = [
    "METRICS",
    "Method",
    "Metric",
    "Outcome",
    "PredictionWriter",
    "Sample",
    "WorstCases",
    "mean",
    "means_of_sequences",
    "method_of_network",
    "perceptual_metric",
    "score",
    "score_boundaries",
    "write_csv",
]
