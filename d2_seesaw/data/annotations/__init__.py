"""Annotation files in COCO or LVIS format, read once into a table of arrays."""
