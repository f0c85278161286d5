# SPDX-License-Identifier: Apache-2.0
"""Storing feature maps in 8 bits: scales, the choice of maps, and what it costs."""
