"""Benchmarks: bertcraft and its rivals, in turn, each in a process of its own, on the same input."""
