# SPDX-License-Identifier: Apache-2.0
"""Inference: a trained network turns the frames of a clip into more frames."""
