# SPDX-License-Identifier: Apache-2.0
"""A convolution's gradient with respect to its kernel."""
