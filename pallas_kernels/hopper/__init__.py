# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernels for Hopper, and the code that launches them."""
