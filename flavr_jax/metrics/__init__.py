# SPDX-License-Identifier: Apache-2.0
"""How near a predicted frame is to the true one."""
