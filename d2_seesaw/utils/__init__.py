"""Helpers for progress, files, ranks and error messages. Importing them does not import torch."""
