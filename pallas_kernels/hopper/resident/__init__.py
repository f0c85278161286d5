# SPDX-License-Identifier: Apache-2.0
"""The convolution of images by kernels that are small enough to stay in shared memory."""
