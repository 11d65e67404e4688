"""Benchmarks: peers run side by side with enchufe, and what counts are ratios. None of them is a test."""
