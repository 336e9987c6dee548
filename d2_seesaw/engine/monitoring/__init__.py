"""Hooks that follow a metric of the evaluations: the best checkpoint and early stopping."""
