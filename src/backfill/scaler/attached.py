"""`backfill`, run by an actor: it is told to stop when the actor's process is gone.

`python -m backfill.scaler.attached PARENT serve --role work …`: the words of the command line behind the parent's
process id.
"""

import os
import signal
import sys

from backfill.scaler.parent import end_with_parent

__all__: list[str] = []

if __name__ == "__main__":
    # As at any stop: turns are given back, so that others go on with them at once. Engines end with it.
    end_with_parent(int(sys.argv[1]), signal.SIGTERM)
    # What was asked of the kernel holds for the program that is run instead of this one, too.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "backfill", *sys.argv[2:]])  # noqa: S606 - our own program
