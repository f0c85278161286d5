# SPDX-License-Identifier: Apache-2.0
"""Channel gating by global means."""
