# SPDX-License-Identifier: Apache-2.0
"""The web page of ``flavr serve``: uploads, a queue of runs of ``flavr interpolate``, results."""
