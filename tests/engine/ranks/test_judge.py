"""Which rank is blamed, from what each one last reported."""

import pytest

from d2_seesaw.engine.ranks.judge import LONG, Rank, silent_rank, stuck_ranks
from d2_seesaw.engine.ranks.progress import FIRST_STEPS, Phase, Progress

TIMEOUT = 10.0


def rank(number, step, phase, *, batch=1, idle=0.0, silence=0.0, early=False, watched=True):
    """Return a rank that last advanced ``idle`` and last reported ``silence`` seconds ago."""
    state = (1, step, batch, phase, early)
    times = {"advanced_at": -idle, "heard_at": -silence}
    return Rank(number, "host", 1, state=state, is_watched=watched, **times)


def blamed(*ranks):
    return [r.number for r in stuck_ranks(ranks, TIMEOUT, 0.0)]


def waiting(number, step, phase=Phase.BACKWARD, **options):
    return rank(number, step, phase, idle=TIMEOUT + 1, **options)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        # The others wait in the backward pass for the one that is behind.
        ([waiting(0, 5), waiting(1, 5, Phase.LOADING), waiting(2, 5)], [1]),
        ([waiting(0, 5), waiting(1, 5, Phase.FORWARD)], [1]),
        ([waiting(0, 6, Phase.FORWARD), waiting(1, 5, Phase.UPDATE)], [1]),
        ([waiting(0, 5, batch=2), waiting(1, 5, batch=1)], [1]),
        ([waiting(0, 5), waiting(1, 5)], [0, 1]),
        # Rank 1 has just arrived after long loading: it is not the fault of rank 0.
        ([waiting(0, 5), rank(1, 5, Phase.BACKWARD)], []),
        ([waiting(0, 5), rank(1, 5, Phase.LOADING, idle=TIMEOUT - 1)], []),
        # Rank 0 saves or scores; the others wait in the next step.
        ([waiting(0, 5, Phase.BETWEEN), waiting(1, 6)], []),
        ([waiting(0, 5, Phase.SCORING), waiting(1, 6)], []),
        ([waiting(0, 5, Phase.SCORING), waiting(1, 5, Phase.SCORING)], []),
        ([waiting(0, 0, Phase.START, batch=0), waiting(1, 0)], []),
        # Images of the test data are no reason to wait for each other.
        ([rank(0, 5, Phase.INFERENCE), waiting(1, 5, Phase.INFERENCE)], [1]),
        ([waiting(0, 5, Phase.SCORING), waiting(1, 5, Phase.INFERENCE)], [1]),
        ([rank(0, 5, Phase.INFERENCE), waiting(1, 5, Phase.SCORING)], []),
        # The first steps compile; a rank that has left is not waited for.
        ([waiting(0, 0, early=True), waiting(1, 0, Phase.FORWARD, early=True)], []),
        ([waiting(0, 5, Phase.UPDATE, watched=False), waiting(1, 5, Phase.LOADING)], [1]),
        ([], []),
    ],
)
def test_only_a_rank_that_all_others_wait_for_is_blamed(ranks, expected):
    assert blamed(*ranks) == expected


@pytest.mark.parametrize("phase", [Phase.START, Phase.BETWEEN, Phase.SCORING])
def test_what_takes_long_has_a_limit_too(phase):
    limit = LONG * TIMEOUT
    assert blamed(rank(0, 5, phase, idle=limit - 1), rank(1, 6, Phase.FORWARD, idle=limit)) == []
    assert blamed(rank(0, 5, phase, idle=limit + 1), rank(1, 6, Phase.FORWARD, idle=limit)) == [0]


def test_a_silent_rank_is_frozen_whatever_its_phase():
    ranks = [rank(0, 5, Phase.SCORING), rank(1, 5, Phase.SCORING, silence=TIMEOUT + 1)]
    assert silent_rank(ranks, TIMEOUT, 0.0) is ranks[1]
    assert silent_rank(ranks, TIMEOUT + 2, 0.0) is None
    ranks[1].is_watched = False
    assert silent_rank(ranks, TIMEOUT, 0.0) is None


def test_time_in_which_the_judge_itself_was_stopped_does_not_count():
    frozen = waiting(0, 5, silence=1e4)
    frozen.forget_time(0.0)
    assert not frozen.is_stuck(TIMEOUT, TIMEOUT)
    assert silent_rank([frozen], TIMEOUT, TIMEOUT) is None
    assert frozen.is_stuck(TIMEOUT, TIMEOUT + 1)


def test_a_report_without_progress_breaks_the_silence_only():
    heard = rank(1, 5, Phase.FORWARD, idle=8.0, silence=8.0)
    heard.report(list(heard.state), 0.0)
    assert (heard.heard_at, heard.advanced_at) == (0.0, -8.0)
    heard.report([2, 6, 1, Phase.LOADING.value, False], 1.0)
    assert (heard.heard_at, heard.advanced_at) == (1.0, 1.0)
    assert heard.where == "step 6 (loading data)"


def test_positions_grow_along_a_training_and_first_steps_are_marked():
    progress, start = Progress(), 100
    states = [progress.state]
    for step in range(start, start + FIRST_STEPS + 2):
        for _ in range(2):
            for phase in (Phase.LOADING, Phase.FORWARD, Phase.BACKWARD):
                progress.enter(phase, step if phase is Phase.LOADING else None)
                states.append(progress.state)
        for phase in (Phase.UPDATE, Phase.BETWEEN):
            progress.enter(phase)
            states.append(progress.state)
    assert [s[0] for s in states] == list(range(len(states)))
    positions = [s[1:4] for s in states]
    assert positions == sorted(set(positions))
    assert {s[1] for s in states[1:] if s[4]} == set(range(start, start + FIRST_STEPS))


def test_the_first_images_of_each_evaluation_may_take_long():
    progress = Progress()
    for _ in range(2):
        progress.enter(Phase.INFERENCE)
        early = []
        for _ in range(FIRST_STEPS + 2):
            progress.advance()
            early.append(progress.state[4])
        assert early == [True] * (FIRST_STEPS - 1) + [False] * 3
