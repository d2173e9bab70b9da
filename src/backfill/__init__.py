"""Backfill: the Together and OpenAI Batch APIs on your own hardware.

The way of the data: intake -> turns -> plan -> dispatch -> engines -> journal -> deliver.

From Python, a table in and the same kind of table out, without a server:

    import backfill
    answered = backfill.run(reviews, "Classify: {text}", columns="label:enum(pos,neg)")

What is offered is loaded when it is asked for: the import itself costs next to nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
