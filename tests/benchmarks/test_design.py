"""The variants of the comparison of designs lack what they are named after, and nothing that is finished is redone."""

import math
from unittest.mock import create_autospec

import pytest
import timm
import torch

from mtpano_zoo.layers import CNNEncoder, ERPTokenMixer, SphereConv2d, Upsample


@pytest.fixture
def build(benchmark):
    settings = benchmark.quickstart()

    def build(name):
        network = benchmark.build(settings, name)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # branches that start as nothing hide what they are joined to
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        return network

    return build


def test_seam_jump_compares_the_border_with_the_inside(benchmark):
    columns = torch.arange(64).expand(2, 3, 8, 64).float()
    assert benchmark.seam_jump(columns) == pytest.approx(63)
    wave = (columns * math.tau / 64).sin()
    for turn in (0, 7, 40):  # a wave has no border, but is steeper at some places than at others
        steep = abs(math.sin(math.tau * turn / 64) - math.sin(math.tau * (turn - 1) / 64))
        mean = float((wave.roll(-1, -1) - wave).abs().mean())
        assert benchmark.seam_jump(wave.roll(-turn, -1)) == pytest.approx(steep / mean, rel=0.05)


@pytest.mark.parametrize(
    ("name", "gone"),
    [("plain 3 x 3 instead of the ERP mixer", ERPTokenMixer), ("zero padding", SphereConv2d)],
)
def test_layers_are_gone(benchmark, build, name, gone):
    full, changed = build("PD-BridgeNet"), build(name)
    assert any(isinstance(module, gone) for module in full.modules())
    assert not any(isinstance(module, gone) for module in changed.modules())
    assert {m.convention for m in changed.modules() if isinstance(m, Upsample)} == {
        "paper" if gone is SphereConv2d else "sphere"
    }


def learns_from_semseg(network, part):
    network.train()
    network(torch.rand(2, 3, 64, 128))["semseg"].square().mean().backward()
    gradients = [p.grad for name, p in network.named_parameters() if name.startswith(part) and p.grad is not None]
    return any(gradient.abs().max() > 0 for gradient in gradients)


def test_truncation_is_what_keeps_gradients_from_the_other_stream(build):
    assert not learns_from_semseg(build("PD-BridgeNet"), "refiners.variant.")
    assert learns_from_semseg(build("bridge without truncation"), "refiners.variant.")
    assert not build("no bridge").bridges and not build("one shared stream, no bridge").bridges
    assert list(build("one shared stream, no bridge").refiners) == ["invariant"]


def test_the_pretrained_encoder_is_read_and_learns_slowly(benchmark, tmp_path, monkeypatch):
    torch.manual_seed(1)
    whole = timm.create_model("tf_efficientnet_lite0")
    torch.save(whole.state_dict(), tmp_path / "imagenet.pth")
    settings = benchmark.pretrained(tmp_path / "imagenet.pth")
    network = benchmark.build(settings, "depth alone")
    assert isinstance(network.encoder, CNNEncoder) and network.tasks == ("depth",)
    assert any(torch.equal(whole.conv_stem.weight, parameter) for parameter in network.encoder.parameters())
    trained = []
    monkeypatch.setattr(benchmark.Trainer, "fit", lambda self, module, data: trained.append(module))
    monkeypatch.setattr(benchmark.Trainer, "test", lambda *_, **__: [{"test/depth/AbsRel": 1.0}])
    monkeypatch.setattr(benchmark, "seam_jumps", lambda *_: {})
    real, score = (create_autospec(function) for function in (benchmark.real, benchmark.score))  # with its signature
    real.side_effect = lambda root, _: lambda: root
    score.side_effect = lambda _, samples, **__: {"aligned": 2.0 if samples == "3d60" else 0}
    monkeypatch.setattr(benchmark, "real", real)
    monkeypatch.setattr(benchmark, "score", score)
    data = benchmark.RoomsDataModule(128, 256, train_count=1, test_count=1)
    result = benchmark.measure(settings, "depth alone", 0, 1, data, "3d60", "32-true")
    assert result["depth"] == 1.0 and result["real aligned"] == 2.0
    assert trained[0].encoder_lr < trained[0].lr
    assert "| real AbsRel, aligned |" in benchmark.table({"depth alone": [result]})


def test_a_stopped_comparison_goes_on(benchmark, tmp_path, monkeypatch, capsys):
    arguments = ["design.py", "--steps", "1", "--rooms", "4", "--test-rooms", "4", "--seeds", "0", "--variants"]
    arguments += ["depth alone", "normals alone", "--out", str(tmp_path / "design.json")]
    measured = []
    measure = benchmark.measure
    monkeypatch.setattr(benchmark, "measure", lambda *given: measured.append(given[1:3]) or measure(*given))
    monkeypatch.setattr("sys.argv", [word for word in arguments if word != "normals alone"])
    benchmark.main()
    monkeypatch.setattr("sys.argv", arguments)
    benchmark.main()
    assert measured == [("depth alone", 0), ("normals alone", 0)]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| normals alone")]
    assert len(rows) == 1 and rows[0].count("|") == 10  # no column for classes, which no network has
