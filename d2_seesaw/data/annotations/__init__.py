"""The one reading of annotation files: JSON in COCO or LVIS format as a table of arrays."""
