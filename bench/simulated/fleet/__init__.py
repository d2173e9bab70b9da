"""A whole installation on a virtual clock: real rows, turns and scaler; simulated engines."""
