# SPDX-License-Identifier: Apache-2.0
"""Reading and writing clips: frames with exact times, from and to files and folders."""
