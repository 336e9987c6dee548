"""Backbones: timm's models behind Detectron2's interface."""

from d2_seesaw.backbones.timm_backbone import TimmBackbone

__all__ = ["TimmBackbone"]
