# SPDX-License-Identifier: Apache-2.0
"""Clips for training and evaluation: data sets on disk, and synthetic clips drawn on the device."""
