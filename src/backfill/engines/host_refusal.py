"""A request that the engine in a child process cannot answer as it is."""

__all__ = ["Refusal"]


class Refusal(Exception):
    """The request is wrong or asks for what this engine cannot do, and would tomorrow: HTTP 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        """`param`: the member that is the matter. `code`: OpenAI's name for the case, where it has one."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
