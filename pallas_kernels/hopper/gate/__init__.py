# SPDX-License-Identifier: Apache-2.0
"""The gate of a convolution, computed before the convolution runs."""
