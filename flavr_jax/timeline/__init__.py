# SPDX-License-Identifier: Apache-2.0
"""Exact times of output frames, cuts, and repeated frames, independent of file formats."""
