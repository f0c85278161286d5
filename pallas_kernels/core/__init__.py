# SPDX-License-Identifier: Apache-2.0
"""What every operation shares, on any device."""
