"""Why a text is no JSON, in words that say where."""

from backfill.validation import describe_json_fault

__all__ = ["explain_json"]


def explain_json(text: str | bytes) -> str:
    """What is wrong with it, such as "it ends inside a string (line 1, column 20)"."""
    from pydantic_core import from_json  # noqa: PLC0415 - the fast parser, which found it first, says no place

    try:
        from_json(text)
    except ValueError as error:
        return describe_json_fault(str(error))
    return "it is nested too deeply, or has a number that is too large"
