# SPDX-License-Identifier: Apache-2.0
"""Times and costs of the network, of its layers and of training, and peers to compare with."""
