"""A serving engine as a discrete model in virtual time, and the feeder that runs on it: shared with the tests."""
