from .batch_cost import cost_of
from .charges import Charge, LineItem, split_row
from .enqueued import Enqueued, count_left
from .hardware import HardwareCost, compute_hardware_cost
from .key_draft import DEFAULT_SCOPES, KeyDraft, make_key
from .keys import ANONYMOUS, Keys, count_by_state
from .quota import Quota, QuotaSources
from .shared_use import SharedUse
from .spending import Spending
from .token_guess import TokenGuess, find_per_mille
from .usage import UsageBook, UsageFilter
from .usage_totals import UsageTotals
from .webhook_secrets import WebhookSecrets

__all__ = [
    "ANONYMOUS",
    "DEFAULT_SCOPES",
    "Charge",
    "Enqueued",
    "HardwareCost",
    "KeyDraft",
    "Keys",
    "LineItem",
    "Quota",
    "QuotaSources",
    "SharedUse",
    "Spending",
    "TokenGuess",
    "UsageBook",
    "UsageFilter",
    "UsageTotals",
    "WebhookSecrets",
    "compute_hardware_cost",
    "cost_of",
    "count_by_state",
    "count_left",
    "find_per_mille",
    "make_key",
    "split_row",
]
