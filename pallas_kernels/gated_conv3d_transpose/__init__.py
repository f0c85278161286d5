# SPDX-License-Identifier: Apache-2.0
"""Transposed 3-D convolution and gate as one operation."""
