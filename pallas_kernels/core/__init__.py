# SPDX-License-Identifier: Apache-2.0
"""Code that all operations share, on any device."""
