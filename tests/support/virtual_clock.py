"""Tests in virtual time: deterministic, and over as soon as the work is done."""

from bench.simulated.clock import VirtualClockLoop, run_virtual

__all__ = ["VirtualClockLoop", "run_virtual"]
