# SPDX-License-Identifier: Apache-2.0
"""Inputs, and their decoding in a child process, with or without the search for cuts.

A child process has a lock of Python's of its own, which the threads that feed GPUs need not wait
for. With limits of memory, time and rights it is a sandbox for files from strangers.

Parent and child share a block of memory with room for a few frames. The child writes planes into
it, and describes each frame in a line of JSON; the parent believes nothing that it has not checked.
"""
