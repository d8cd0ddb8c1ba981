"""Parallel configurations, strategies, the space of them, and baselines."""
