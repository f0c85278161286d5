# SPDX-License-Identifier: Apache-2.0
"""Bilinear look-up of images at displaced positions, several output images at once."""
