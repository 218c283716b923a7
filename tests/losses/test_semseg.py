import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpano_zoo.losses import semseg
from mtpano_zoo.losses.means import weighted_mean
from mtpano_zoo.losses.published import PublishedSemsegLoss

CLASSES = 5


def _case(seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, CLASSES, 6, 12, generator=g)
    labels = torch.randint(0, CLASSES - 1, (2, 6, 12), generator=g)
    labels[0][labels[0] == 2] = 1
    valid = torch.rand(2, 6, 12, generator=g) > 0.3
    return logits, labels, valid


def cross_entropy(logits, labels, valid, weight=None):
    return weighted_mean(semseg.class_statistics(logits, labels, valid, weight)[0], valid, weight)


def dice(logits, labels, valid, weight=None):
    return semseg.mean_dice(*semseg.class_statistics(logits, labels, valid, weight)[1:])


def published_loss(logits, labels, valid):
    """Cross-entropy + the published Dice."""
    return PublishedSemsegLoss()(logits, {"semseg": labels.masked_fill(~valid, 127)}, None, False)


def _dice_by_hand(logits, labels, valid, as_published):
    p = torch.softmax(logits.double(), 1).numpy()
    losses = []
    for image in range(len(p)):
        for c in range(CLASSES):
            truth = valid[image].numpy() & (labels[image].numpy() == c)
            if not as_published and not truth.any():
                continue
            mass = p[image, c][valid[image].numpy()].sum()
            losses.append(1 - (2 * p[image, c][truth].sum() + 1e-6) / (mass + truth.sum() + 1e-6))
    return np.mean(losses)


def test_cross_entropy_is_the_mean_over_valid_pixels():
    logits, labels, valid = _case()
    expected = F.cross_entropy(logits, torch.where(valid, labels, 255), ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels, valid), expected)


def test_dice_agrees_with_loops():
    logits, labels, valid = _case()
    by_hand = _dice_by_hand(logits, labels, valid, as_published=False)
    assert dice(logits, labels, valid).item() == pytest.approx(by_hand, rel=1e-5)
    entropy = F.cross_entropy(logits, torch.where(valid, labels, 255), ignore_index=255).item()
    as_published = _dice_by_hand(logits, labels, valid, as_published=True)
    assert published_loss(logits, labels, valid).item() == pytest.approx(entropy + as_published, rel=1e-5)


def test_absent_classes_cost_nothing_unless_published():
    _, labels, valid = _case()
    perfect = 9.0 * F.one_hot(labels, CLASSES).permute(0, 3, 1, 2)
    assert dice(perfect, labels, valid) < 2e-3
    # Class 4 is in neither image and class 2 not in the first one: three of ten pairs.
    assert published_loss(perfect, labels, valid) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [cross_entropy, dice, published_loss])
def test_invalid_pixels_take_no_part(loss, weighted, junk):
    logits, labels, valid = _case()
    weight = 0.1 + torch.rand(valid.shape, generator=torch.Generator().manual_seed(1))
    clean, soiled = {}, {}
    if weighted and loss is not published_loss:
        clean, soiled = {"weight": weight}, {"weight": weight.masked_fill(~valid, junk)}
    expected = loss(logits, labels, valid, **clean)
    dirty = logits.masked_fill(~valid[:, None], junk).requires_grad_()
    value = loss(dirty, labels.masked_fill(~valid, 255), valid, **soiled)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert dirty.grad.isfinite().all()
    assert torch.equal((dirty.grad != 0).any(1), valid)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("loss", [cross_entropy, dice, published_loss])
def test_labels_may_be_of_any_integer_type(loss, dtype):
    logits, labels, valid = _case()
    assert torch.equal(loss(logits, labels.to(dtype), valid), loss(logits, labels, valid))


@pytest.mark.parametrize("loss", [cross_entropy, dice])
def test_without_valid_pixels_loss_and_gradient_are_zero(loss):
    logits, labels, valid = _case()
    logits.requires_grad_()
    value = loss(logits, labels, torch.zeros_like(valid))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), roll=st.integers(-20, 20), order=st.permutations(range(CLASSES)))
@pytest.mark.parametrize("loss", [cross_entropy, dice])
def test_yaw_and_the_order_of_classes_do_not_matter(loss, seed, roll, order):
    logits, labels, valid = _case(seed)
    changed = loss(
        logits[:, list(order)].roll(roll, -1),
        torch.tensor(order).argsort()[labels].roll(roll, -1),
        valid.roll(roll, -1),
    )
    torch.testing.assert_close(changed, loss(logits, labels, valid), rtol=1e-5, atol=1e-6)


def test_weights_make_weighted_means():
    logits, labels, valid = _case()
    weight = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1))
    per_pixel = F.cross_entropy(logits, labels, reduction="none").numpy()
    expected = np.average(per_pixel[valid.numpy()], weights=weight.numpy()[valid.numpy()])
    assert cross_entropy(logits, labels, valid, weight).item() == pytest.approx(expected, rel=1e-5)
    # A pixel of weight 3 in 8 is 3 of 8 pixels, as far as Dice can tell.
    eighths = torch.randint(0, 9, valid.shape, generator=torch.Generator().manual_seed(2))
    repeated = (torch.arange(8)[:, None, None, None] < eighths) & valid
    many = [torch.cat(list(x), dim=-1) for x in ([logits] * 8, [labels] * 8, repeated)]
    one = dice(logits, labels, valid, weight=eighths / 8)
    torch.testing.assert_close(one, dice(*many), rtol=1e-5, atol=1e-6)
    for loss in (cross_entropy, dice):
        torch.testing.assert_close(
            loss(logits, labels, valid, weight=torch.ones(2, 6, 12)), loss(logits, labels, valid)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("band", [1, 1 << 20])
def test_bands_give_what_whole_maps_give(dtype, weighted, band, monkeypatch):
    monkeypatch.setitem(semseg.BAND, "cpu", band)
    logits, labels, valid = _case()
    weight = 0.1 + torch.rand(valid.shape, generator=torch.Generator().manual_seed(1)) if weighted else None
    weights = valid.double() if weight is None else weight.double() * valid
    ours = logits.to(dtype, copy=True).requires_grad_()
    plain = ours.detach().double().requires_grad_()
    total = cross_entropy(ours, labels, valid, weight) + 2 * dice(ours, labels, valid, weight)
    one_hot = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2) * weights[:, None]
    overlap = (plain.softmax(1) * one_hot).sum((2, 3))
    mass, count = (plain.softmax(1) * weights[:, None]).sum((2, 3)), one_hot.sum((2, 3))
    per_class = 1 - (2 * overlap + 1e-6) / (mass + count + 1e-6)
    entropy = (F.cross_entropy(plain, labels, reduction="none") * weights).sum() / weights.sum()
    expected = entropy + 2 * per_class[count > 0].mean()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    total.backward()
    expected.backward()
    half = dtype == torch.bfloat16  # each of the two gradients is rounded to it, and so is their sum
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-2 if half else 1e-5, atol=2e-4 if half else 1e-7)
