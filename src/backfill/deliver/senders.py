"""Who sends webhooks: to the server's own receiver, and to the addresses that batches name."""

from backfill.accounts import WebhookSecrets
from backfill.config import WebhooksConfig
from backfill.deliver.own_addresses import OwnAddresses
from backfill.deliver.receivers import BatchReceiver, ServerReceiver
from backfill.deliver.webhooks import WebhookSender
from backfill.store import Metadata, WebhookKind
from backfill.turns import Announcements, Turns

__all__ = ["make_batch_sender", "make_server_sender"]


def make_server_sender(config: WebhooksConfig, turns: Turns, metadata: Metadata) -> WebhookSender:
    """To the receiver that the settings name, as soon as a batch ends."""
    announcements = Announcements(metadata, WebhookKind.SERVER, metadata.database.now_ms, turns.duties)
    return WebhookSender(announcements, ServerReceiver(config), config, turns.setbacks, turns.subscribe())


def make_batch_sender(config: WebhooksConfig, turns: Turns, metadata: Metadata) -> WebhookSender:
    """To the own addresses of batches. Few name one: it is enough to look once a second."""
    announcements = Announcements(metadata, WebhookKind.BATCH, metadata.database.now_ms, turns.duties)
    receiver = BatchReceiver(config, OwnAddresses(config), WebhookSecrets(metadata).find)
    return WebhookSender(announcements, receiver, config, turns.setbacks)
