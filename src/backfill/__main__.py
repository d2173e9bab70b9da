"""`python -m backfill` is the command line."""

from backfill.cli import main

main()
