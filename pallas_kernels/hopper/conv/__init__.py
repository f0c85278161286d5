# SPDX-License-Identifier: Apache-2.0
"""The convolution kernel: an implicit GEMM on the tensor cores."""
