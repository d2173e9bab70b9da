from .deliverer import Deliverer
from .gather import Gathered, gather
from .webhooks import WebhookSender

__all__ = ["Deliverer", "Gathered", "WebhookSender", "gather"]
