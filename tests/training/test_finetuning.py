"""Training that starts from a trained network: low-rank updates, and a warm start by a configuration alone."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tiny_training import HEIGHT, WIDTH, TinyDataModule, TinyNetwork
from torch import nn
from torch.testing import assert_close

from mtpano_zoo import load_model
from mtpano_zoo.data import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.errors import InputError
from mtpano_zoo.models import PanoramaNetwork, PDBridgeNet, UniFuse
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.training.cli import main
from mtpano_zoo.zoo.pretrained import Pretrained, PretrainedInMetres

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def quiet(tmp_path):
    return QUIET | {"default_root_dir": tmp_path}


@pytest.fixture(scope="module")
def adapted(tiny_network, tmp_path_factory):
    """A module after two epochs with low-rank updates, its checkpoint, and the weights that it started from."""
    torch.manual_seed(0)
    module = MultiTaskModule(tiny_network(encoder={"layer_scale": 1.0}), lr=1e-2, lora_rank=2)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    trainer = Trainer(max_epochs=2, default_root_dir=tmp_path_factory.mktemp("adapted"), **QUIET)
    trainer.fit(module, TinyDataModule())
    return module.eval(), trainer.checkpoint_callback.best_model_path, before


def test_of_the_encoder_only_the_updates_move(adapted):
    module, _, before = adapted
    after = {name: value for name, value in module.network.state_dict().items() if name.startswith("encoder.")}
    updates = {name for name in after if ".parametrizations.weight.0." in name}
    assert len(updates) == 2 * 2 * 4  # up and down, of two layers in each of four blocks
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == updates


def test_a_checkpoint_is_loaded_as_a_plain_network_that_computes_the_same(adapted, tiny_network):
    module, path, _ = adapted
    network = load_model(path)
    assert network.state_dict().keys() == tiny_network().state_dict().keys()
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours, theirs = network(image), module.network(image)
    for task in network.tasks:
        assert_close(ours[task], theirs[task], rtol=1e-4, atol=1e-5)


def test_what_was_trained_further_keeps_its_licences_and_loses_its_scores(tiny_network, quiet):
    module = MultiTaskModule(tiny_network())
    module.network.card = {
        "description": "rooms",
        "license": {"weights": "MIT"},
        "upstream": [{"name": "DINOv3", "license": "DINOv3 License"}],
        "results": [{"mIoU": 90}],
        "sha256": "0" * 64,
    }
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(module, TinyDataModule())
    card = load_model(trainer.checkpoint_callback.best_model_path).card
    assert card == {
        "description": "Trained further with mtpano_zoo, from: rooms",
        "license": {"weights": "MIT"},
        "upstream": [{"name": "DINOv3", "license": "DINOv3 License"}],
    }


def test_training_goes_on_from_its_checkpoint(adapted, tiny_network, quiet):
    _, path, _ = adapted
    again = MultiTaskModule(tiny_network(encoder={"layer_scale": 1.0}), lr=1e-2, lora_rank=2)
    trainer = Trainer(max_epochs=3, **quiet)
    trainer.fit(again, TinyDataModule(), ckpt_path=path)
    assert trainer.global_step == 3 * len(TinyDataModule().train_dataloader())


def test_another_rank_names_the_option(adapted, tiny_network, quiet, tmp_path):
    _, path, _ = adapted
    plain = tmp_path / "plain.ckpt"
    trainer = Trainer(**quiet)
    trainer.strategy.connect(MultiTaskModule(tiny_network()))
    trainer.save_checkpoint(plain)
    modules = {rank: MultiTaskModule(tiny_network(), lora_rank=rank) for rank in (None, 3)}
    for verb in ("fit", "test"):
        for rank, checkpoint, sentence in (
            (None, path, r"with lora_rank 2, but here lora_rank is not set: pass --model\.lora_rank=2"),
            (3, path, r"with lora_rank 2, but here lora_rank is 3: pass --model\.lora_rank=2"),
            (3, plain, r"without lora_rank, but here lora_rank is 3: leave --model\.lora_rank out"),
        ):
            with pytest.raises(ValueError, match=f"^The checkpoint was trained {sentence}"):
                getattr(Trainer(max_epochs=3, **quiet), verb)(modules[rank], TinyDataModule(), ckpt_path=checkpoint)


class Backbone(PanoramaNetwork):
    """Its encoder has another name."""

    encoder_part = "backbone"

    def __init__(self):
        super().__init__(("normals",), (HEIGHT, WIDTH))
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image):
        return {"normals": self.head(self.backbone(image))}


@pytest.mark.parametrize("network", [TinyNetwork, Backbone])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_goes_on_with_the_same_encoder(quiet, frozen, network):
    """Scoring does not ask whether the encoder learnt."""
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(MultiTaskModule(network(), freeze_encoder=frozen), TinyDataModule())
    path = trainer.checkpoint_callback.best_model_path
    same, other = (MultiTaskModule(network(), freeze_encoder=choice) for choice in (frozen, not frozen))
    with pytest.raises(ValueError, match=rf"to resume it, pass --model\.freeze_encoder={str(frozen).lower()}\.$"):
        Trainer(max_epochs=2, **quiet).fit(other, TinyDataModule(), ckpt_path=path)
    Trainer(**quiet).test(other, TinyDataModule(), ckpt_path=path, verbose=False)
    Trainer(max_epochs=2, **quiet).fit(same, TinyDataModule(), ckpt_path=path)


def test_a_configuration_alone_starts_from_a_trained_network_with_the_classes_of_the_data(
    tiny_checkpoint, tmp_path, monkeypatch
):
    """With a learning rate of zero, what comes out is what was loaded, new classifiers apart."""
    monkeypatch.chdir(tmp_path)
    config = {
        "model": {"network": {"class_path": "Pretrained", "init_args": {"source": str(tiny_checkpoint)}}, "lr": 0.0},
        "data": {
            "class_path": "RoomsDataModule",
            "init_args": {"height": 32, "width": 64, "train_count": 2, "val_count": 1, "batch_size": 2},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 0},
    }
    Path("warm.yaml").write_text(yaml.safe_dump(config))
    cli = main(["fit", "--config", "warm.yaml"])
    before, after = dict(load_model(tiny_checkpoint).named_parameters()), dict(cli.model.network.named_parameters())
    renewed = {name for name in before if before[name].shape != after[name].shape}
    assert renewed == {
        f"{layer}.{part}"
        for layer in ("heads.semseg.classify", "auxiliary_heads.semseg.predictor")
        for part in ("weight", "bias")
    }
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - renewed)
    assert cli.model.network.classes == S3DIS_CLASSES
    assert load_model(cli.trainer.checkpoint_callback.best_model_path).config["palette"] == S3DIS_PALETTE.tolist()


def test_pretrained_keeps_the_classes_of_the_network_without_others(tiny_checkpoint):
    network = Pretrained(tiny_checkpoint, input_size=(64, 128))
    assert isinstance(network, PDBridgeNet)
    assert network.input_size == (64, 128)
    assert network.classes == ("floor", "wall", "ceiling")
    depth = Pretrained(tiny_checkpoint, classes=["sky"], palette=[[0, 0, 255]], tasks=["depth"])
    assert (depth.tasks, depth.classes, depth.palette) == (("depth",), (), None)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_weights_that_were_saved_in_half_precision_are_trained_in_single(tiny_network, quiet, tmp_path, precision):
    tiny_network().to(precision).save_pretrained(tmp_path / "half")
    network, single = Pretrained(str(tmp_path / "half")), tiny_network()
    assert {x.dtype for x in network.state_dict().values()} == {torch.float32, torch.int64}
    assert_close(network.image_mean, single.image_mean, rtol=0, atol=0)
    Trainer(max_epochs=1, **quiet).fit(MultiTaskModule(network), TinyDataModule())


def test_pretrained_takes_a_colour_for_every_class(tiny_checkpoint, tmp_path):
    """Otherwise the network that is trained could be saved, but not loaded."""
    colours = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    Pretrained(tiny_checkpoint, palette=colours).save_pretrained(tmp_path)
    assert load_model(tmp_path).palette == colours
    with pytest.raises(InputError, match="palette has 2 colours for 3 classes"):
        Pretrained(tiny_checkpoint, palette=colours[:2])


@pytest.mark.parametrize("tasks", [None, ["depth"]])
def test_a_network_with_the_same_classes_names_its_source_and_loses_its_scores(tiny_network, tmp_path, quiet, tasks):
    trained = tiny_network()
    trained.card = {"license": {"weights": "MIT"}, "upstream": [{"name": "ResNet", "license": "BSD-3-Clause"}]}
    origin = dict(trained.card)
    trained.card |= {"description": "rooms", "results": [{"mIoU": 0.1}], "limitations": ["No streets."]}
    trained.save_pretrained(tmp_path / "rooms")
    other = Pretrained(str(tmp_path / "rooms"), classes=trained.classes[::-1], tasks=tasks)
    network = Pretrained(str(tmp_path / "rooms"), classes=trained.classes, tasks=tasks)
    sentence = f"Weights of rooms for {', '.join(tasks or trained.tasks)}: to be trained."
    expected = {"license": origin["license"], "upstream": [*origin["upstream"], {"name": "rooms", "license": "MIT"}]}
    assert network.card == {"description": sentence, **expected}
    assert {**other.card, "description": ""} == {"description": "", **expected}
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(MultiTaskModule(network), TinyDataModule())
    card = load_model(trainer.checkpoint_callback.best_model_path).card
    assert card == {"description": f"Trained further with mtpano_zoo, from: {sentence}", **expected}


def test_a_network_in_metres_keeps_its_origin_and_loses_its_scores(tmp_path):
    trained = UniFuse("test_resnet", input_size=(32, 64))
    trained.card = {"license": {"weights": "MIT"}, "upstream": [{"name": "ResNet", "license": "BSD-3-Clause"}]}
    origin = dict(trained.card)
    trained.card |= {"description": "rooms", "results": [{"AbsRel": 0.1}], "sha256": "0" * 64}
    trained.save_pretrained(tmp_path / "rooms")
    card = PretrainedInMetres(str(tmp_path / "rooms")).card
    assert card == {
        "description": "Weights of rooms for distances in metres: to be trained.",
        "license": origin["license"],
        "upstream": [*origin["upstream"], {"name": "rooms", "license": "MIT"}],
    }
