# SPDX-License-Identifier: Apache-2.0
"""Kernels that warp two images by fields and do all that comes before and after it per pixel."""
