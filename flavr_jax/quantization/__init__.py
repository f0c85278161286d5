# SPDX-License-Identifier: Apache-2.0
"""Calibration for 8 bits: measure scales and losses, choose feature maps, report the choice."""
