import pytest
import torch
import torch.nn.functional as F

from d2_seesaw.layers import conv2d_sparse_gradient


def inputs(kernel, dtype=torch.float32):
    shapes = [(2, 4, 9, 7), (5, 4, kernel, kernel), (5,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def sparse_gradient(share):
    gradient = torch.randn(2, 5, 9, 7)
    kept = torch.rand(2, 1, 9, 7) < share
    kept[0, :, 0, 0] = kept[1, :, -1, -1] = share > 0  # the corners of the batch
    return gradient * kept


@pytest.mark.parametrize("share", [0, 0.1, 1])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_conv2d(share, kernel, memory_format):
    tensors = inputs(kernel)
    x, weight, bias = tensors
    x_in_format = x.contiguous(memory_format=memory_format)
    expected = F.conv2d(x, weight, bias, padding=kernel // 2)
    result = conv2d_sparse_gradient(x_in_format, weight, bias)
    torch.testing.assert_close(result, expected)
    upstream = sparse_gradient(share)
    known = torch.autograd.grad(expected, tensors, upstream)
    gradients = torch.autograd.grad(result, tensors, upstream)
    torch.testing.assert_close(gradients, known, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_are_those_of_finite_differences_at_few_positions(kernel):
    def at_few_positions(*tensors):
        return conv2d_sparse_gradient(*tensors)[:, :, ::4, ::5]

    torch.autograd.gradcheck(at_few_positions, inputs(kernel, torch.float64), fast_mode=True)


def test_an_input_without_gradient_and_a_nan():
    x, weight, bias = inputs(3)
    upstream = torch.zeros(2, 5, 9, 7)
    upstream[1, 2, 3, 4] = float("nan")
    result = conv2d_sparse_gradient(x.detach(), weight, bias)
    of_weight, of_bias = torch.autograd.grad(result, [weight, bias], upstream)
    assert of_weight[2].isnan().all()
    assert of_bias[2].isnan()
