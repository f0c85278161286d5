# SPDX-License-Identifier: Apache-2.0
"""Folders of images, OpenEXR, and animated GIF and WebP."""
