"""LVIS metrics: annotations, matching, curves, and the official package."""
