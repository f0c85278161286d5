# SPDX-License-Identifier: Apache-2.0
"""Training: from a recipe to a checkpoint."""
