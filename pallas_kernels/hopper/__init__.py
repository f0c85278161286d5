# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels for Hopper, and what launches them."""
