from detectron2.config import LazyCall as L

from d2_seesaw.engine import multi_step_with_warmup

# Milestones are epochs of a training that may be given in epochs or in steps: only their ratio to
# the last one counts.
multi_step_2x = L(multi_step_with_warmup)(
    milestones=[16, 22, 24],
    warmup_iters=500,
    warmup_factor=1e-3,
    max_iter="${train.max_iter}",
)
