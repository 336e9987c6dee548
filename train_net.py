#!/usr/bin/env python
"""Train or evaluate a model, where users of Detectron2 expect it; the same as `d2-seesaw train`."""

import sys

from d2_seesaw.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
