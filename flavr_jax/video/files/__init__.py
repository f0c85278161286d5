# SPDX-License-Identifier: Apache-2.0
"""Video files: containers, codecs, and the streams beside the pictures."""
