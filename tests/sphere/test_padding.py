import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mtpano_zoo.sphere import pad, sample


def expected(x, padding):
    """Pixel by pixel, straight from the definition (even widths)."""
    left, right, top, bottom = padding
    height, width = x.shape[-2:]
    out = x.new_empty(*x.shape[:-2], height + top + bottom, width + left + right)
    for i in range(out.shape[-2]):
        for j in range(out.shape[-1]):
            row, column = i - top, j - left
            if row < 0:
                row, column = -1 - row, column + width // 2
            elif row >= height:
                row, column = 2 * height - 1 - row, column + width // 2
            out[..., i, j] = x[..., row, column % width]
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 11), min_size=2, max_size=2), st.integers(0, 4),
    st.integers(0, 4), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]),
)  # fmt: skip
def test_pad_is_its_definition(height, half, sides, top, bottom, dtype):
    x = torch.arange(2 * height * 2 * half).reshape(1, 2, height, 2 * half).to(dtype)
    padding = (*sides, min(top, height), min(bottom, height))
    assert_close(pad(x, padding), expected(x, padding), atol=0, rtol=0)


def test_odd_width_takes_the_mean_of_two_columns():
    x = torch.arange(5.0).reshape(1, 1, 1, 5)
    assert_close(pad(x, (0, 0, 1, 0))[0, 0, 0], torch.tensor([2.5, 3.5, 2.0, 0.5, 1.5]))
    labels = pad(x.long(), (0, 0, 1, 0))
    assert labels.dtype == torch.int64 and set(labels[0, 0, 0].tolist()) == {0, 1, 2, 3, 4}


def test_nothing_to_pad_is_free():
    x = torch.rand(1, 2, 4, 8)
    assert pad(x, (0, 0, 0, 0)).data_ptr() == x.data_ptr()


def test_padding_agrees_with_sampling():
    """Both continue the map in the same way: a padded map shows what lies in the directions beyond its border."""
    x = torch.rand(1, 3, 8, 16, dtype=torch.float64)
    padded = pad(x, (3, 3, 3, 3))
    v, u = torch.meshgrid(torch.arange(-3, 11), torch.arange(-3, 19), indexing="ij")
    longitude = ((u + 0.5).double() / 16 - 0.5) * 2 * torch.pi
    latitude = (0.5 - (v + 0.5).double() / 8) * torch.pi  # beyond a pole the cosine turns the ray around
    rays = torch.stack((latitude.cos() * longitude.sin(), -latitude.sin(), latitude.cos() * longitude.cos()), -1)
    assert_close(sample(x, rays[None]), padded, atol=1e-9, rtol=0)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("width", [6, 5])
@pytest.mark.parametrize(
    "padding", [(2, 7, 1, 3), (2, 3, 1, 3), (0, 5, 0, 2), (4, 0, 3, 0), (5, 5, 0, 0), (0, 0, 1, 1)]
)
def test_gradients(padding, width, nearest):
    x = torch.rand(1, 2, 3, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: pad(t, padding, nearest=nearest), x)
    assert torch.autograd.gradgradcheck(lambda t: pad(t, padding, nearest=nearest), x)


def test_function_transforms_and_tracing():
    x, tangent = torch.rand(2, 1, 2, 3, 6, dtype=torch.float64)

    def padded(t):
        return pad(t, (2, 3, 1, 2))

    ones = torch.ones(1, 2, 6, 11, dtype=torch.float64)
    torch.testing.assert_close(torch.func.grad(lambda t: padded(t).sum())(x), torch.func.vjp(padded, x)[1](ones)[0])
    torch.testing.assert_close(torch.func.jvp(padded, (x,), (tangent,))[1], padded(tangent))
    traced = torch.jit.trace(padded, x, check_trace=False)
    assert "PadOnce" not in str(traced.graph)
    torch.testing.assert_close(traced(tangent), padded(tangent))


def test_memory_format():
    x = torch.rand(2, 8, 4, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    padded = pad(x, (1, 1, 1, 1))
    for one in (padded, pad(x.detach(), (1, 1, 1, 1))):
        assert one.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(padded, x, torch.rand_like(padded))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_compiles_in_one_graph_and_exports():
    class Module(torch.nn.Module):
        def forward(self, x):
            return pad(x, (2, 2, 1, 1))

    x = torch.rand(1, 2, 4, 8)
    assert_close(torch.compile(Module(), fullgraph=True, backend="eager")(x), pad(x, (2, 2, 1, 1)))
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(Module(), (torch.rand(2, 2, 4, 8),), dynamic_shapes={"x": {0: batch}})
    assert_close(exported.module()(x), pad(x, (2, 2, 1, 1)))


@pytest.mark.parametrize("padding", [(0, 0, 5, 0), (0, 0, 0, 5), (-1, 0, 0, 0)])
def test_bad_padding(padding):
    with pytest.raises(ValueError, match="pad"):
        pad(torch.rand(1, 1, 4, 8), padding)


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    ends=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    width=st.integers(5, 8),
    channels_last=st.booleans(),
)
def test_one_copy_gives_what_a_recorded_padding_gives(sides, ends, width, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(2, 3, 4, width).to(memory_format=layout)
    recorded = pad(x.clone().requires_grad_(), (*sides, *ends))
    once = pad(x, (*sides, *ends))
    assert torch.equal(once, recorded)
    assert once.stride() == recorded.stride()
    part = (slice(None), slice(None), slice(1, None), slice(1, None))  # a part is contiguous in no format
    assert pad(x[part], (1, 1, 1, 1)).stride() == pad(x[part].detach().requires_grad_(), (1, 1, 1, 1)).stride()
