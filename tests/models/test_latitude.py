import pytest
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.models.latitude import LatitudePrior


def synthetic(rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows differ, columns are random draws of the row's distribution."""
    generator = torch.Generator().manual_seed(seed)
    columns = 2 * rows
    uniform = torch.rand(rows, columns, generator=generator)
    row = torch.arange(rows)[:, None]
    semseg = torch.where(uniform < 0.6, row % 3, (row + 1) % 3)
    depth = (1 + row) * (0.5 + torch.rand(rows, columns, generator=generator))
    up = torch.tensor([0.0, -1.0, 0.0])[:, None, None].expand(3, rows, columns).clone()
    return {"semseg": semseg, "depth": depth, "normals": up}


def test_no_other_constant_per_row_scores_better() -> None:
    rows = 6
    samples = [synthetic(rows, seed) for seed in range(20)]
    prior = LatitudePrior(("a", "b", "c"), rows)
    prior.fit(samples)
    outputs = prior(torch.zeros(2, 3, rows, 2 * rows))
    assert outputs["semseg"].argmax(1)[0, :, 0].tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(outputs["normals"][0, :, 2, 3], torch.tensor([0.0, -1.0, 0.0]))
    depth = torch.stack([s["depth"] for s in samples])
    candidates = torch.linspace(0.3, 12, 2000)
    for row in range(rows):
        truth = depth[:, row].flatten()
        brute_force = ((candidates[:, None] - truth).abs() / truth).mean(1).min()
        ours = ((outputs["depth"][0, 0, row, 0] - truth).abs() / truth).mean()
        assert ours <= brute_force * 1.01


def test_rows_without_depth_are_between_their_neighbours() -> None:
    sample = synthetic(8, 0)
    sample["depth"] = torch.tensor([0.0, 0.0, 4.0, 0.0, 0.0, 7.0, 2.0, 0.0])[:, None].repeat(1, 16)
    prior = LatitudePrior(("a", "b", "c"), 8)
    prior.fit([sample])
    torch.testing.assert_close(prior.depths, torch.tensor([4.0, 4, 4, 5, 6, 7, 2, 2]), rtol=0.01, atol=0)
    sample["depth"] = torch.zeros(8, 16)
    with pytest.raises(InputError, match="no sample has any"):
        LatitudePrior(("a", "b", "c"), 8).fit([sample])


def test_rows_without_class_or_normal_are_like_the_nearest_row() -> None:
    sample = synthetic(7, 0)
    sample["semseg"] = torch.tensor([255, 255, 1, 255, 255, 2, 255])[:, None].repeat(1, 14)
    ahead, down, none = [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]
    sample["normals"] = torch.tensor([none, none, ahead, none, none, down, none]).T[..., None].repeat(1, 1, 14)
    prior = LatitudePrior(("a", "b", "c"), 7)
    prior.fit([sample])
    outputs = prior(torch.zeros(1, 3, 7, 14))
    assert outputs["semseg"].argmax(1)[0, :, 0].tolist() == [1, 1, 1, 1, 2, 2, 2]
    expected = torch.tensor([ahead, ahead, ahead, ahead, down, down, down])
    assert ((outputs["normals"][0, :, :, 0].T * expected).sum(1) > 0.99).all()
    for key, nothing in (("semseg", 255), ("normals", 0)):
        with pytest.raises(InputError, match="no sample has any"):
            LatitudePrior(("a", "b", "c"), 7).fit([sample | {key: torch.full_like(sample[key], nothing)}])


def test_images_of_another_height_are_refused() -> None:
    with pytest.raises(ValueError, match="8 rows, but the prior was fitted to 6"):
        LatitudePrior(("a",), 6)(torch.zeros(1, 3, 8, 16))
