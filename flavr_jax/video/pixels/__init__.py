# SPDX-License-Identifier: Apache-2.0
"""The meaning of stored pixels: layout, colour, HDR metadata and orientation."""
