"""Feature pyramids for Detectron2, to put on top of any of its backbones."""

from d2_seesaw.necks.fpg import FPG

__all__ = ["FPG"]
