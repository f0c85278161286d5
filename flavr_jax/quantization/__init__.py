# SPDX-License-Identifier: Apache-2.0
"""Calibration for 8-bit inference: measure scales and losses, choose feature maps, report them."""
