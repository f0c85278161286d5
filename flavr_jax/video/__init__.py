# SPDX-License-Identifier: Apache-2.0
"""Clips in and out: frames with exact times from files and folders, and back into them."""
