"""A child process that runs an engine, seen from the server: one start for all who need it, watched, started again."""
