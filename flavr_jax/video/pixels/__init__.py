# SPDX-License-Identifier: Apache-2.0
"""What a stored pixel means: layout, colour, HDR and orientation."""
