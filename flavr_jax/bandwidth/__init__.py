# SPDX-License-Identifier: Apache-2.0
"""Saving bandwidth: a sender drops frames, and the receiver restores them by interpolation."""
