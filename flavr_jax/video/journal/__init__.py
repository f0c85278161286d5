# SPDX-License-Identifier: Apache-2.0
"""Finished work of an output on disk, so that the same command goes on after any interruption.

The frames of an output are encoded in segments of a fixed number of frames, each by an encoder of
its own, also if nothing interrupts the run. An encoder carries its state from frame to frame, so
this is what makes a resumed file equal to an uninterrupted one, bit for bit. x264 and x265 begin a
new group of pictures every 250 frames anyway, so segments of that length hardly enlarge a file.
"""
