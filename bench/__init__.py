"""Measurements. What they measure against, and share with the tests, stands in `null/` and `simulated/`."""
