import pytest
import torch

from d2_seesaw.losses import progressive_constraint


def test_loss_is_the_mean_shortfall_computed_by_hand():

    # Targets: 0.5 + 0.3, 0.9 + 0.1 and 0.2 + 0.3. Shortfalls: 0.2, 0.4 and 0.
    achieved, reference = torch.tensor([0.6, 0.6, 0.7]), torch.tensor([0.5, 0.9, 0.2])
    loss = progressive_constraint(achieved, reference)
    torch.testing.assert_close(loss, torch.tensor(0.6 / 3))

    # Targets with a margin of 0.05: 0.55, 0.95 and 0.25.
    loss = progressive_constraint(achieved, reference, margin=0.05)
    torch.testing.assert_close(loss, torch.tensor(0.35 / 3))


def test_a_single_measure_is_its_own_mean():
    loss = progressive_constraint(torch.tensor([0.2]), torch.tensor([0.4]))
    torch.testing.assert_close(loss, torch.tensor(0.5))


def test_only_measures_below_their_target_get_a_gradient():
    achieved = torch.tensor([0.6, 0.9], requires_grad=True)
    reference = torch.tensor([0.5, 0.2], requires_grad=True)
    progressive_constraint(achieved, reference).backward()
    torch.testing.assert_close(achieved.grad, torch.tensor([-0.5, 0.0]))
    assert reference.grad is None


def test_empty_measures_give_zero_loss_with_a_graph():
    achieved = torch.zeros(0, requires_grad=True)
    loss = progressive_constraint(achieved, torch.zeros(0))
    assert loss == 0
    loss.backward()
    assert achieved.grad is not None


def test_different_shapes_are_reported():
    with pytest.raises(ValueError, match=r"same shape, got \(3,\) and \(3, 1\)"):
        progressive_constraint(torch.zeros(3), torch.zeros(3, 1))
