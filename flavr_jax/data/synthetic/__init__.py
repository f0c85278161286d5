# SPDX-License-Identifier: Apache-2.0
"""Clips drawn on the device, with the exact picture at any time."""
