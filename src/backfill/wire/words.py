"""Numbers, times and money in words that a person reads, at a terminal as on a page. Pure."""

from decimal import ROUND_HALF_UP, Decimal

__all__ = ["name_amount", "name_duration", "name_rate", "name_size"]

_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£"}


def name_amount(amount: str | None, currency: str) -> str:
    """An amount of money to two digits that tell something: $1,234.50, $0.0042, $0.00; "unknown" without a price."""
    if amount is None:
        return "unknown"
    value = Decimal(amount)
    # A batch often costs less than a cent.
    places = 2 if not value or abs(value) >= 1 else min(12, 1 - value.adjusted())
    text = f"{value.quantize(Decimal(1).scaleb(-max(2, places)), ROUND_HALF_UP):,f}"
    symbol = _SYMBOLS.get(currency)
    return f"{symbol}{text}" if symbol else f"{text} {currency.upper()}"


def name_duration(seconds: float) -> str:
    """Seconds in the words of a clock on the wall: 8.3 s, 2 min 5 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def name_size(size_bytes: int) -> str:
    """Bytes in the largest unit of which there is a whole one."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.1f} {unit}"


def name_rate(per_s: float) -> str:
    """Small rates with decimals, so that a slow engine does not look like one that stands still."""
    if 0 < per_s < 0.995:
        return f"{per_s:.2f}"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else f"{per_s:,.0f}"
