# SPDX-License-Identifier: Apache-2.0
"""Images and animations as clips, and clips as images and animations."""
