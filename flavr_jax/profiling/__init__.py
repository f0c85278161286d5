# SPDX-License-Identifier: Apache-2.0
"""How long the network takes, where the time goes, and what a card could do at best."""
