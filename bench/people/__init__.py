"""What people do with Backfill: tables in and out, and how long they wait for a command."""
