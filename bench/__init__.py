"""Measurements, and the null engine that they share with the tests."""
