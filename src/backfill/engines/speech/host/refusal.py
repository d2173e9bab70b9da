"""A request that cannot be answered as it is."""

__all__ = ["Refusal"]


class Refusal(Exception):
    """The request is wrong, and would be tomorrow: HTTP 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
