from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import LinearParamScheduler

from d2_seesaw.engine import multi_step_with_warmup, polynomial_with_warmup


# Milestones are in epochs. Only their ratio to the last one matters, so a run whose length is
# given in steps can use them too.
def _multi_step(milestones):
    return L(multi_step_with_warmup)(
        milestones=milestones,
        warmup_iters=499,  # as in mmdet, whose 500 iterations include the first at the full rate
        warmup_factor=1e-3,
        max_iter="${train.max_iter}",
    )


multi_step_1x = _multi_step([8, 11, 12])
multi_step_2x = _multi_step([16, 22, 24])
multi_step_45_epochs = _multi_step([30, 40, 45])

# fvcore's ConstantParamScheduler raises an error after the last step.
constant = L(LinearParamScheduler)(start_value=1.0, end_value=1.0)
polynomial = L(polynomial_with_warmup)(
    power=0.9, warmup_iters=1000, warmup_factor=1e-3, max_iter="${train.max_iter}"
)
