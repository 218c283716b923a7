"""Domains from predicted sky and ceiling, and from ids."""

import pytest
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.domains import DomainByName, SkyOrCeiling, upper_share

CLASSES = ("wall", "ceiling", "sky")


def label(**maps):
    return {"depth": torch.ones(16, 32), **maps}


def rows(count, index):
    semseg = torch.zeros(16, 32, dtype=torch.int64)
    semseg[:count] = index
    return semseg


def test_the_share_is_of_the_upper_half_of_the_sphere():
    mask = torch.zeros(16, 32, dtype=torch.bool)
    mask[:, :16] = True
    assert upper_share(mask) == pytest.approx(0.5)
    mask = torch.zeros(16, 32, dtype=torch.bool)
    mask[:4] = True  # above 45 degrees
    assert upper_share(mask) == pytest.approx(1 - 2**-0.5)
    assert upper_share(~torch.ones(16, 32, dtype=torch.bool)) == 0


@pytest.mark.parametrize(
    ("sample", "domain"),
    [
        (label(semseg=rows(4, 1)), "indoor"),
        (label(semseg=rows(4, 2)), "outdoor"),
        (label(semseg=rows(4, 0)), "indoor"),
        (label(semseg=rows(1, 2)), "indoor"),  # less than a twentieth
        (label(), "indoor"),
        (label(far=rows(4, 1).bool()), "outdoor"),
        (label(far=rows(2, 1).bool(), semseg=rows(4, 1)), "indoor"),  # a dark hole in a ceiling
    ],
)
def test_sky_or_ceiling(sample, domain):
    assert SkyOrCeiling()(sample, CLASSES) == domain


def test_by_name():
    by_name = DomainByName({"indoor": "room-*", "outdoor": "*street*"})
    assert by_name.domains == ("indoor", "outdoor")
    assert [by_name({"id": name}, ()) for name in ("room-1", "a_street-2")] == ["indoor", "outdoor"]
    with pytest.raises(InputError, match=r"no pattern of DomainByName fits it: room-\*, \*street\*"):
        by_name({"id": "wood"}, ())
    with pytest.raises(InputError, match="needs a pattern per domain"):
        DomainByName({})
