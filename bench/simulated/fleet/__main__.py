"""One run of any size: `python -m bench.simulated.fleet --replicas 1000 --batches 20000 --lines 1000000000`."""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import structlog

from bench.simulated.fleet.database import Costs
from bench.simulated.fleet.load import Load, draw_jobs
from bench.simulated.fleet.run import run_fleet
from bench.simulated.fleet.settings import FleetSettings


def main() -> None:
    """Print what came of it, with a millisecond for each transaction."""
    parser = argparse.ArgumentParser(description="Simulate an installation.")
    parser.add_argument("--replicas", type=int, default=20)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--lines", type=int, default=20_000_000)
    parser.add_argument("--owners", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--lines-per-s", type=float, default=80.0, help="of one replica")
    parser.add_argument("--lines-per-turn", type=int, default=2_000)
    parser.add_argument("--looks-every-s", type=float, default=10.0, help="of the scaler")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = FleetSettings(
        options.replicas,
        options.lines_per_s,
        kills=options.kills,
        looks_every_s=options.looks_every_s,
        lines_per_turn=options.lines_per_turn,
    )
    load = Load(options.batches, options.lines, options.owners, options.replicas * options.lines_per_s)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_fleet(settings, draw_jobs(load, options.seed), Costs(), Path(folder), options.seed)
    ratios = ("missed_ratio", "missed_lines_ratio", "missed_lines_ratio_as_up")
    told = outcome._asdict() | {name: getattr(outcome, name) for name in ratios}
    print(json.dumps(told))


main()
