"""What is wrong with a file or a line of it, in words that say what to do."""

import errno
from pathlib import Path

from backfill.batch import BatchProblem
from backfill.errors import InvalidInput

__all__ = ["name_problem", "name_unreadable"]


def name_problem(name: str, problem: BatchProblem, label: str = "") -> str:
    """A problem in the form of a compiler's message, which editors can jump to."""
    place = f"{name}:{problem.line}" if problem.line else name
    return f"{place}: {label}{problem.message} [{problem.code}]"


def name_unreadable(path: Path, error: OSError) -> InvalidInput:
    """What is raised where the input cannot be read."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            message = f"There is no input file {path}; check its name and its folder."
        case errno.EISDIR:
            message = f"{path} is a folder; name a file of requests."
        case errno.EACCES | errno.EPERM:
            message = f"The input file {path} may not be read by this user; change its permissions."
        case _:
            message = f"The input file {path} cannot be read: {error.strerror}."
    return InvalidInput(message, param="input")
