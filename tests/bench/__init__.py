"""Benchmarks: `make bench`. Figures, never tests; CI runs them small, to see that they run."""
