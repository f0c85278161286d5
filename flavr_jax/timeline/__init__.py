# SPDX-License-Identifier: Apache-2.0
"""Which frames are wanted when: exact times, cuts and repeated frames; knows no container."""
