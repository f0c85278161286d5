# SPDX-License-Identifier: Apache-2.0
"""Inference: a trained network interpolates the frames of a clip."""
