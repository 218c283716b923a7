import pickle

import pytest
import torch
from lightning.pytorch import Trainer
from tiny_training import TinyDataModule, TinyNetwork

import mtpano_zoo
from mtpano_zoo.files.checkpoint import check_same_outputs, check_weights, network_weights, read_checkpoint
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.zoo import load_model

pytestmark = pytest.mark.usefixtures("tiny_network_is_known")


def write(path, network):
    """Let Lightning write a checkpoint of a module that holds the network."""
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True, default_root_dir=path.parent)
    trainer.strategy.connect(MultiTaskModule(network))
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    network = TinyNetwork(classes=["floor", "wall"], tasks=["semseg", "depth"], width=5)
    return write(tmp_path / "tiny.ckpt", network), network


def test_a_network_comes_back_with_its_weights_and_nothing_beside_the_file(checkpoint):
    path, network = checkpoint
    loaded = load_model(path)
    assert type(loaded) is TinyNetwork
    assert (loaded.tasks, loaded.classes, loaded.config) == (("semseg", "depth"), ("floor", "wall"), network.config)
    assert not loaded.training
    image = torch.rand(1, 3, 16, 32)
    assert torch.equal(loaded(image)["depth"], network.eval()(image)["depth"])


def test_pd_bridgenet_comes_back(tmp_path, tiny_network):
    network = tiny_network(palette=[(1, 2, 3)] * 3)
    loaded = load_model(write(tmp_path / "bridge.ckpt", network))
    network.eval()
    assert isinstance(loaded, PDBridgeNet)
    assert loaded.config == network.config
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image)["normals"], network(image)["normals"])


def test_the_description_is_plain_data(checkpoint):
    description = read_checkpoint(checkpoint[0])["network"]
    assert description == {
        "class_path": "TinyNetwork",
        "init_args": {"classes": ["floor", "wall"], "tasks": ["semseg", "depth"], "width": 5, "dropout": 0.1},
        "tasks": ["semseg", "depth"],
        "classes": ["floor", "wall"],
        "version": mtpano_zoo.__version__,
        "card": {},
    }


def test_weights_load_into_a_given_network(checkpoint):
    path, network = checkpoint
    given = TinyNetwork(classes=["floor", "wall"], tasks=["semseg", "depth"], width=5)
    with torch.no_grad():
        network.gamma.copy_(torch.rand_like(network.gamma))
    weights = network_weights(read_checkpoint(write(path, network)))
    check_same_outputs(read_checkpoint(path)["network"], given, "the file")
    check_weights(given, weights, "the file")
    given.load_state_dict(weights)
    assert torch.equal(given.gamma, network.gamma)


def test_another_task_set_names_both(checkpoint):
    description = read_checkpoint(checkpoint[0])["network"]
    with pytest.raises(
        ValueError, match=r"^it was trained for the tasks semseg, depth, but the network has semseg, no"
    ):
        check_same_outputs(description, TinyNetwork(tasks=["semseg", "normals"]), "it")
    check_same_outputs(description, TinyNetwork(classes=["floor", "wall"], tasks=["depth", "semseg"]), "it")
    check_same_outputs(None, TinyNetwork(tasks=["depth"]), "it")


def test_another_task_set_is_refused_by_the_trainer_as_well(checkpoint, tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="tasks semseg, depth, but the network has depth"):
        trainer.validate(MultiTaskModule(TinyNetwork(tasks=["depth"])), TinyDataModule(), ckpt_path=checkpoint[0])


@pytest.mark.parametrize(("classes", "difference"), [
    (["wall", "floor"], "class 0 is 'floor' in it, and 'wall' here"),
    (["floor", "door"], "class 1 is 'wall' in it, and 'door' here"),
    (["floor"], "class 1 is 'wall' in it, and missing here"),
    (["floor", "wall", "sky"], "class 2 is missing in it, and 'sky' here"),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_other_classes_are_refused_even_if_the_weights_fit(checkpoint, tmp_path, verb, classes, difference):
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True, default_root_dir=tmp_path)
    module = MultiTaskModule(TinyNetwork(classes=classes, tasks=["semseg", "depth"], width=5))
    sentence = f"was trained for other classes: {difference}.* new training from its network .*=Pretrained"
    with pytest.raises(ValueError, match=sentence):
        getattr(trainer, verb)(module, TinyDataModule(), ckpt_path=checkpoint[0])


def test_what_does_not_fit_is_listed_key_by_key(checkpoint):
    network = TinyNetwork(classes=["floor", "wall", "sky"], tasks=["semseg", "depth"], width=5)
    network.extra = torch.nn.Linear(1, 1)
    del network.gamma
    with pytest.raises(ValueError, match="do not fit") as caught:
        check_weights(network, network_weights(read_checkpoint(checkpoint[0])), "it")
    message = str(caught.value)
    assert "missing extra.bias, extra.weight" in message
    assert "unexpected gamma" in message
    assert "heads.semseg.weight (2, 5, 1, 1) instead of (3, 5, 1, 1)" in message
    assert "\n" not in message


def test_weights_of_a_training_that_diverged_are_refused(checkpoint):
    path, network = checkpoint
    network.gamma.data[...] = torch.nan
    with pytest.raises(ValueError, match=r"tiny.ckpt are NaN \(gamma\): their training diverged"):
        load_model(write(path, network))
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True, default_root_dir=path.parent)
    module = MultiTaskModule(TinyNetwork(classes=["floor", "wall"], tasks=["semseg", "depth"], width=5))
    with pytest.raises(ValueError, match=r"the checkpoint are NaN \(gamma\)"):
        trainer.validate(module, TinyDataModule(), ckpt_path=path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_one_sentence(checkpoint, keep):
    content = checkpoint[0].read_bytes()
    checkpoint[0].write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(ValueError, match="truncated, damaged") as caught:
        read_checkpoint(checkpoint[0])
    assert "\n" not in str(caught.value)


class Surprise:
    def __reduce__(self):
        return (print, ("code from a file has run",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "network": Surprise()}, tmp_path / "evil.ckpt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Surprise()))
    for name in ("evil.ckpt", "evil.pkl"):
        with pytest.raises(ValueError, match=r"tensors and plain data, .*(nothing in it|none of it) was run"):
            read_checkpoint(tmp_path / name)
    assert "has run" not in capsys.readouterr().out


def test_files_without_description_or_of_unknown_class(tmp_path, checkpoint):
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match=r"plain\.ckpt cannot be loaded: The checkpoint holds no weights"):
        load_model(tmp_path / "plain.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds a list, not the dictionary"):
        load_model(tmp_path / "list.ckpt")
    content = read_checkpoint(checkpoint[0])
    content["network"]["class_path"] = "os.system"
    torch.save(content, tmp_path / "unknown.ckpt")
    with pytest.raises(ValueError, match=r"class 'os\.system', which is not one of .*PDBridgeNet"):
        load_model(tmp_path / "unknown.ckpt")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.ckpt"):
        read_checkpoint(tmp_path / "absent.ckpt")
