# SPDX-License-Identifier: Apache-2.0
"""3-D convolution."""
