# SPDX-License-Identifier: Apache-2.0
"""Two images warped by predicted fields: as the input of a convolution, or mixed to new images."""
