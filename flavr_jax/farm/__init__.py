# SPDX-License-Identifier: Apache-2.0
"""Interpolation of clips on the machines of a Ray cluster.

Every output is encoded in segments, also on a single machine, and finished segments are kept in a
journal beside the output. In a farm, the head schedules and workers render stretches, which are a
few consecutive segments each, into that journal. A file made by many workers therefore equals that
of one machine bit for bit, and segments of a lost worker are rendered again. All machines use the
same paths for inputs, outputs and checkpoint.
"""

__all__ = ["SEGMENT"]

SEGMENT = 240
"""Default number of frames in a segment. If the factor divides it, no interval is computed for two
segments."""
