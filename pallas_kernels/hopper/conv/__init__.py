# SPDX-License-Identifier: Apache-2.0
"""The convolution kernel: an implicit matrix product on the tensor cores."""
