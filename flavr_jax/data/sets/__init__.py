# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: one module reads one official layout into sequences."""
