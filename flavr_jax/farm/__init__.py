# SPDX-License-Identifier: Apache-2.0
"""Interpolation of clips on the machines of a Ray cluster.

The head schedules; workers render stretches of a clip, each a few of the segments in which an
output is encoded anyway, into the journal beside the output. A file made by many workers therefore
equals that of one machine, bit for bit, and work that is lost is made again like any other.
Inputs, outputs and checkpoint are read and written by all machines under the same paths.
"""

__all__ = ["SEGMENT"]

SEGMENT = 240
"""Frames of a segment by default: whole intervals for every factor that divides it, so that no
interval is computed for two segments."""
