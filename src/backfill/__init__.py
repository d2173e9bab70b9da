"""Backfill: the Together and OpenAI Batch APIs on your own hardware.

The way of the data: intake -> turns -> plan -> dispatch -> engines -> journal -> deliver.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
