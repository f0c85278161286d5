# SPDX-License-Identifier: Apache-2.0
"""The look-up kernels: gather, mix and add in one pass, and the gradients of that."""
