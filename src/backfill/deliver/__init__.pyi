from .deliverer import Deliverer
from .gather import Gathered, gather
from .own_addresses import OwnAddresses
from .receivers import BatchReceiver, ServerReceiver
from .senders import make_batch_sender, make_server_sender
from .webhooks import WebhookSender

__all__ = [
    "BatchReceiver",
    "Deliverer",
    "Gathered",
    "OwnAddresses",
    "ServerReceiver",
    "WebhookSender",
    "gather",
    "make_batch_sender",
    "make_server_sender",
]
