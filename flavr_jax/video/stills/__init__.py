# SPDX-License-Identifier: Apache-2.0
"""Reading and writing clips as images and animations."""
