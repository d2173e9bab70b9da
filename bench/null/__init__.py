"""The null engine: answers at once and always the same, or as badly as it is told to; shared with the tests."""
