"""A PostgreSQL server of the measurements and the tests."""
