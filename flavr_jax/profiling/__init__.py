# SPDX-License-Identifier: Apache-2.0
"""Times and costs of the network, its layers and training, and comparison with PyTorch."""
