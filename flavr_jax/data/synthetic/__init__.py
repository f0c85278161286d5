# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips, drawn on the device: the exact frame is known at every time."""
