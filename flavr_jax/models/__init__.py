# SPDX-License-Identifier: Apache-2.0
"""The network; start with flavr.py."""
