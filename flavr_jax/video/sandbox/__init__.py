# SPDX-License-Identifier: Apache-2.0
"""Decoding of files from strangers in a child process with little memory, time and rights.

Parent and child share a block of memory with room for a few frames. The child writes planes into
it, and describes each frame in a line of JSON; the parent believes nothing that it has not checked.
"""
