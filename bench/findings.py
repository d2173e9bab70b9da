"""What the measurements are given, and where they put what they find."""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BATCH_TIMEOUT_S", "CHILD_TIMEOUT_S", "Findings", "Setting", "tell"]

BATCH_TIMEOUT_S = 300
CHILD_TIMEOUT_S = 180


@dataclass
class Findings:
    """What was measured so far."""

    timings: dict[str, list[float]] = field(default_factory=dict)
    """Name -> the figure of each run."""
    facts: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def add(self, **figures: float) -> None:
        """Take in the figures of one run."""
        for name, figure in figures.items():
            self.timings.setdefault(name, []).append(figure)


@dataclass(frozen=True)
class Setting:
    """What every measurement is given."""

    folder: Path
    input_path: Path
    """`lines` lines of `bench.input_file`."""
    lines: int
    concurrency: int
    repeats: int | None = None
    """Runs of each measurement; None: as many as suit it."""
    seed: int = 1
    """For what is drawn by lot."""

    def make_folder(self) -> Path:
        """A new folder for one run."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def count_repeats(self, suited: int) -> int:
        """The runs that were asked for, else as many as suit the measurement."""
        return self.repeats or suited

    def scale(self, lines: int) -> int:
        """A measurement's own number of lines, smaller where the input file is smaller than 50,000 lines."""
        return min(lines, max(20, lines * self.lines // 50_000))


def tell(message: str) -> None:
    """Say on stderr what goes on."""
    print(message, file=sys.stderr, flush=True)
