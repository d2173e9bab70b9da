"""The OpenVINO host without its leader admission: whatever is there is admitted at once, in the order it came.

Run as `python -m bench.openvino_naive_host SETTINGS`; all else is as in `backfill.engines.openvino.host`. What prefix
leaders are worth is measured against this: it still has the library's own prefix cache.
"""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from backfill.engines.openvino.replica import OpenVinoReplica

if TYPE_CHECKING:
    from backfill.engines.child.server import Launch

__all__ = ["NaiveOpenVinoReplica", "main"]

# No prompt is that long, so none has a beginning for which another would have to wait.
_NEVER_TOKENS = 1 << 40
_HOST = "backfill.engines.openvino.host"


class NaiveOpenVinoReplica(OpenVinoReplica):
    """The built-in replica with this host in the place of its own."""

    async def _prepare(self) -> "Launch":
        launch = await super()._prepare()
        if _HOST not in launch.command:
            message = f"the engine's command does not name {_HOST}: {launch.command}"
            raise RuntimeError(message)
        # Without -P: this module lies in the working directory.
        words = [word for word in launch.command if word != "-P"]
        return replace(launch, command=tuple("bench.openvino_naive_host" if word == _HOST else word for word in words))


def main(arguments: list[str]) -> None:
    """Serve as the host does; does not return."""
    from backfill.engines.openvino.host import __main__ as host  # noqa: PLC0415 - loads the engine's library

    # `patch` refuses a name that is not there: what it switches off cannot silently stay on.
    with patch("backfill.engines.openvino.host.pipeline._PREFIX_TOKENS", _NEVER_TOKENS):
        host.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
