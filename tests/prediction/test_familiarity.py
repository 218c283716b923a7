import json
import math

import pytest
import torch
from torch import nn

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_png
from mtpano_zoo.layers import Encoder
from mtpano_zoo.models import PanoramaNetwork, prepare_for_inference
from mtpano_zoo.prediction.familiarity import check_familiarity, doubts, fit_familiarity, mean_features, strangeness
from mtpano_zoo.prediction.folder import RECORDS
from mtpano_zoo.prediction.small_image import encoder_levels
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import erp_angles


class Colours(Encoder):
    """Its deepest map is the image itself."""

    channels, stride, multiple = 3, 1, 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return [torch.zeros_like(image)] * 3 + [self.scale * image], []


class Metre(PanoramaNetwork):
    """One metre everywhere."""

    encoder_part = "encoder"

    def __init__(self):
        super().__init__(("depth",), (16, 32), image_mean=(0, 0, 0), image_std=(1, 1, 1))
        self.encoder = Colours()

    def forward(self, image):
        return {"depth": torch.ones_like(image[:, :1])}


def flat(red, green, blue):
    return torch.tensor([red, green, blue]).view(3, 1, 1).expand(3, 16, 32)


@pytest.fixture
def network():
    """It was trained on pictures whose colours have means (0.5, 0.3, 0.1) and standard deviations 0.1."""
    network = Metre().eval()
    known = [flat(0.5 + a, 0.3 + a, 0.1 + a) for a in (-math.sqrt(0.005), math.sqrt(0.005))]
    held_out = [flat(0.5 + a, 0.3, 0.1) for a in (0.1, 0.2)]
    network.card = {"familiarity": fit_familiarity(network, known, held_out)}
    return network


def test_features_are_means_over_the_sphere():
    """The mean of sin^2 of the latitude over a sphere is 1/3; over the rows of the picture it is 1/2."""
    _, latitude = erp_angles(64, 128)
    image = latitude.sin().square().view(1, 1, 64, 1).expand(1, 3, 64, 128)
    assert mean_features(encoder_levels(Metre(), image)).flatten().tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_what_was_fitted(network):
    known = network.card["familiarity"]
    assert known["mean"] == pytest.approx([0.5, 0.3, 0.1], abs=1e-4)
    assert known["spread"] == pytest.approx([0.1] * 3, abs=1e-4)
    # The strangest held-out picture differs by two deviations in one of three channels; the limit is 5 % above.
    assert known["limit"] == pytest.approx(1.05 * 2 / math.sqrt(3), abs=0.01)
    json.dumps(known)


def test_only_strange_pictures_are_doubted(network):
    pictures = torch.stack([flat(0.5, 0.3, 0.1), flat(0.1, 0.3, 0.5)])
    levels = encoder_levels(network, pictures)
    assert strangeness(mean_features(levels), network.card["familiarity"]).tolist() == pytest.approx(
        [0, 4 * math.sqrt(2 / 3)], abs=0.01
    )
    for form in (network, prepare_for_inference(network)):
        familiar, strange = doubts(form, levels, [True, True])
        assert familiar == ()
        assert len(strange) == 1 and "nothing that the network was trained on" in strange[0]
    assert doubts(network, levels, [True, False])[1] == ()
    assert network.predict(pictures[1]).doubts == strange


def test_networks_without_an_encoder_and_too_few_pictures_are_refused(network):
    with pytest.raises(InputError, match="has no Encoder"):
        encoder_levels(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 16, 32))
    with pytest.raises(InputError, match="two images"):
        fit_familiarity(network, [flat(0, 0, 0)], [flat(0, 0, 0)])


@pytest.mark.parametrize(
    "known",
    [
        [],
        {"mean": [1.0]},
        {"mean": [], "spread": [], "limit": 1},
        {"mean": [1], "spread": [0], "limit": 1},
        {"mean": [1, 2], "spread": [1], "limit": 1},
        {"mean": ["a"], "spread": [1], "limit": 1},
        {"mean": [1], "spread": [1], "limit": math.nan},
        {"mean": [1], "spread": [1], "limit": -1},
        {"mean": [10**400], "spread": [1], "limit": 1},
        {"mean": [1], "spread": [1e-300], "limit": 1},
    ],
)
def test_a_card_that_is_no_measure_is_refused(known):
    with pytest.raises(InputError, match="config has a card whose familiarity does not hold"):
        check_familiarity(known, Metre(), "config")


def test_a_card_of_another_encoder_is_refused_when_it_is_loaded(network, tiny_network, tmp_path):
    check_familiarity(network.card["familiarity"], network, "config")
    other = tiny_network()
    other.card = network.card
    other.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has a card whose familiarity has 3 channels, but the encoder has 32"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="config has a card with familiarity, but Linear has no Encoder"):
        check_familiarity(network.card["familiarity"], nn.Linear(1, 1), "config")


def test_a_measure_of_another_encoder_is_refused():
    with pytest.raises(InputError, match="has 1 channels, but the encoder has 3"):
        strangeness(torch.zeros(2, 3), {"mean": [0.0], "spread": [1.0]})


def test_run_reports_what_it_doubts(tmp_path, capsys):
    noise = torch.randint(256, (32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_png(tmp_path / "noise.png", noise.numpy(), "")
    report, out = tmp_path / "report.json", tmp_path / "out"
    options = ["--out", str(out), "--json", str(report), "--no-panel"]
    assert main(["run", str(tmp_path / "noise.png"), *options]) == 0
    assert "noise.png: it looks like nothing" in capsys.readouterr().out
    assert "do not trust" in json.loads(report.read_text())["doubted"][str(tmp_path / "noise.png")]
    record = json.loads((out / RECORDS).read_text().splitlines()[-1])
    assert record["doubts"][0].startswith("it looks like nothing")
    assert main(["run", str(tmp_path / "noise.png"), *options]) == 0  # replaces the report
    assert list(json.loads(report.read_text())["skipped"]) == [str(tmp_path / "noise.png")]


def test_the_default_network_knows_rooms_and_doubts_noise():
    network = load_model("mtpano-small.photos")
    (room,) = render([sample_room(0, "test", 0)], 128, 256)["image"]
    noise = torch.rand(3, 128, 256, generator=torch.Generator().manual_seed(0))
    pictures = torch.stack([room, noise])
    familiar, strange = doubts(network, encoder_levels(network, pictures), [True, True])
    assert familiar == ()
    assert any("trained on" in doubt for doubt in strange)
