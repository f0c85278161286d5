# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets: each module turns one official folder layout into sequences."""
