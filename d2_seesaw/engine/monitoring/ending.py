"""Training loop that a hook can end before its last step."""

import contextlib

from detectron2.engine import SimpleTrainer


class EndOfTraining(BaseException):
    """End of the loop after a complete step.

    It is not an ``Exception``, so that Detectron2 does not log a crash.
    """


class EndableTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` that a hook can end early.

    All hooks then see the step as the last one: ``max_iter`` is the number of steps trained, and
    ``after_train`` runs as at the regular end.
    """

    _ends_early = False

    def end_after(self, iteration: int) -> None:
        """End training after this iteration.

        Call it on every rank, from ``after_step``, or from ``before_train`` for the iteration
        before the first one.
        """
        self.max_iter = iteration + 1
        self._ends_early = True

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train from ``start_iter`` up to ``max_iter``, unless a hook ends training before."""
        self._ends_early = False
        with contextlib.suppress(EndOfTraining):
            super().train(start_iter, max_iter)

    def before_train(self) -> None:
        """Run the hooks; leave if one of them ends training."""
        super().before_train()
        self._leave_if_ended()

    def after_step(self) -> None:
        """Run the hooks, then leave the loop if one of them ends training."""
        super().after_step()
        self._leave_if_ended()

    def _leave_if_ended(self) -> None:
        if self._ends_early:
            self.iter = self.max_iter  # tells hooks that training did not fail
            raise EndOfTraining
