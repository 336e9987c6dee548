"""Detections on their way from the model to the score: arrays, masks, ranks and files."""
