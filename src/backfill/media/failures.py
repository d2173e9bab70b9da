"""Why a picture or a clip cannot be had: it becomes the outcome of the lines that name it.

What a message says of a link is never its query, fragment or credentials: a signed link is a secret.
"""

from backfill.batch import BatchProblem
from backfill.errors import BackfillError

__all__ = ["MediaFailure", "MediaRefused", "MediaUnavailable"]


class MediaFailure(BackfillError):
    """What a request names cannot be had."""

    @property
    def problem(self) -> BatchProblem:
        """What the line says that asked."""
        return BatchProblem(self.code, self.message, param=self.param)


class MediaRefused(MediaFailure):
    """It never can: the link, what it may lead to, or what lies there is not what is taken here."""

    code = "invalid_media"


class MediaUnavailable(MediaFailure):
    """It could not be had in all its tries."""

    code = "media_unavailable"
