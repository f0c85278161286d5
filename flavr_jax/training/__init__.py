# SPDX-License-Identifier: Apache-2.0
"""From a recipe to a checkpoint."""
