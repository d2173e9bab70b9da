"""What files are uploaded for, beside requests: their bytes are kept as they are, and no batch can be made of them."""

__all__ = ["MEDIA_PURPOSES", "OPAQUE_PURPOSES", "TABLE_PURPOSE"]

MEDIA_PURPOSES = ("user_data", "vision")
"""Pictures and clips, which requests name by their ids."""
TABLE_PURPOSE = "table"
"""Tables, whose rows are made into requests."""
OPAQUE_PURPOSES = (*MEDIA_PURPOSES, TABLE_PURPOSE)
"""All of these."""
