"""Heads of Detectron2's ``SemanticSegmentor`` whose loss is an object."""

from d2_seesaw.semantic.heads import LossDrivenDeepLabV3PlusHead, LossDrivenSemSegFPNHead

__all__ = ["LossDrivenDeepLabV3PlusHead", "LossDrivenSemSegFPNHead"]
