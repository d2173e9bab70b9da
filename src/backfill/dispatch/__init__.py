"""Feeding: keep each replica as full as it can take, try again what was lost, record what came back, drain."""

from backfill.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
