"""Checks before a study runs: this machine, the cluster, and what one study needs."""
