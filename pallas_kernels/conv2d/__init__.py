# SPDX-License-Identifier: Apache-2.0
"""2-D convolution."""
