# SPDX-License-Identifier: Apache-2.0
"""Clips to train and to score on: real ones, and ones drawn on the device."""
