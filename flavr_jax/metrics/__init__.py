# SPDX-License-Identifier: Apache-2.0
"""Metrics that compare predicted frames with true ones."""
