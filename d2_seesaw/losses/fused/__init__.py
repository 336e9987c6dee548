"""Seesaw Loss with its gradient in closed form, in PyTorch and as one Triton kernel."""

from d2_seesaw.losses.fused.seesaw import fused_seesaw_losses, triton_seesaw_losses

__all__ = ["fused_seesaw_losses", "triton_seesaw_losses"]
