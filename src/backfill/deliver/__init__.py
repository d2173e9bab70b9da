"""Fold the journal into the output and error files, and close the batch in one write; then tell the outside."""

from backfill.deliver.deliverer import Deliverer
from backfill.deliver.gather import Gathered, gather
from backfill.deliver.webhooks import WebhookSender

__all__ = ["Deliverer", "Gathered", "WebhookSender", "gather"]
