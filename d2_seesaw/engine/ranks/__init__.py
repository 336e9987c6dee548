"""Watch of the ranks of a run: a dead or frozen rank ends all of them."""

from d2_seesaw.engine.ranks.progress import PROGRESS, Phase
from d2_seesaw.engine.ranks.watch import EXIT_STATUS, last_checkpoint, watch_ranks

__all__ = ["EXIT_STATUS", "PROGRESS", "Phase", "last_checkpoint", "watch_ranks"]
