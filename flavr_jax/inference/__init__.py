# SPDX-License-Identifier: Apache-2.0
"""From frames to more frames with a trained network."""
