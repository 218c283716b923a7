"""Every shipped configuration goes through the real command line, at tiny size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_deep360
import fake_matterport3d
import fake_pseudo_labels
import fake_stanford2d3d
import fake_structured3d
import fake_synpass
import pytest
import timm
import torch
import yaml
from fake_files import write
from tiny_experiment import TINY_EXPERIMENT, TINY_SIZES

from mtpano_zoo import load_model
from mtpano_zoo.classes import NYU40_CLASSES
from mtpano_zoo.cli import main
from mtpano_zoo.layers import CNNEncoder
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resources import shipped
from mtpano_zoo.scene_classes import SCENE_CLASSES

CONFIGS = sorted(str(path.relative_to(shipped("configs"))) for path in shipped("configs").glob("**/*.yaml"))
TINY = [
    "--data.init_args.height=32",
    "--data.init_args.width=64",
    "--data.init_args.train_count=4",
    "--data.init_args.val_count=2",
    "--data.init_args.test_count=2",
    "--data.init_args.batch_size=2",
    "--data.init_args.num_workers=0",  # a process forked off this one takes longer than four samples
    "--trainer.val_check_interval=1.0",  # a checkpoint less for each
]


# Classes that the mean over 29 leaves out, as in MTPano's evaluation: they hardly occur.
UNSCORED = {9, 12, 19, 20, 22, 25, 26, 27, 29, 30, 36}

# Experiments on published data sets stand on base.yaml and are scored by a protocol.
ROOMS = ["quickstart.yaml", "rooms-tiny.yaml"]
EXPERIMENTS = {
    "structured3d.yaml": fake_structured3d,
    "stanford2d3d.yaml": fake_stanford2d3d,
    "matterport3d.yaml": fake_matterport3d,
    "synpass.yaml": fake_synpass,
    "deep360.yaml": fake_deep360,
    "label_free/pretrain.yaml": fake_pseudo_labels,
}
# `benchmarks/curation.py` runs them all, one after the other: see tests/benchmarks/test_curation.py.
CURATION = [f"curation/{name}.yaml" for name in ("labeler", "label", "discriminator", "student")]
PROTOCOLS = [name for name in CONFIGS if name.startswith("evaluate-")]
# Tried in test_configs_labeling.py.
LABELING = ["label_free/label-oracle-rooms.yaml", "label_free/label.yaml"]
# Tried in tests/generation/test_module.py.
GENERATION = ["dit360/rooms-tiny.yaml", "dit360/train.yaml"]

_TINY_SCENES = {"height": 32, "width": 64, "train_count": 2, "val_count": 1, "test_count": 1, "tilt": 10.0}
TINY_MIXTURE = {
    "trainer": {"accelerator": "cpu", "max_steps": 1, "max_epochs": 1},
    "data": {
        "init_args": {
            "modules": {
                "homes": {"class_path": "HomesDataModule", "init_args": _TINY_SCENES},
                "streets": {"class_path": "StreetsDataModule", "init_args": _TINY_SCENES},
            },
            "batch_size": 2,
            "num_workers": 0,
        }
    },
}


def test_every_configuration_is_tried_here() -> None:
    others = [
        "rooms-tiny-larger.yaml",
        "streets.yaml",
        "photos-small.yaml",
        "photos-small-cpu.yaml",
        "photos-small-cpu-larger.yaml",
        "photos-small-cpu-slow.yaml",
        "base.yaml",
        *CURATION,
        *GENERATION,
        *LABELING,
        *(name for name in CONFIGS if name.startswith("dap/")),  # test_configs_dap.py
        *(name for name in CONFIGS if name.startswith("depth_anywhere/")),  # test_configs_depth_anywhere.py
    ]
    assert sorted([*ROOMS, *EXPERIMENTS, *PROTOCOLS, *others]) == CONFIGS


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a verb on an experiment at tiny size, with the files of its data set in miniature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY_EXPERIMENT))

    def run(verb: str, name: str, *arguments: str) -> int:
        if not (tmp_path / "data").exists():
            write(tmp_path / "data", EXPERIMENTS[name].files())
        return main([verb, "--config", "base.yaml", "--config", name, "--config", "tiny.yaml", *arguments])

    return run


SCORES = {"semseg": "test/semseg/mIoU", "depth": "test/depth/AbsRel", "normals": "test/normals/mean"}


@pytest.mark.filterwarnings(
    "ignore:.*panoramas of the release", "ignore:.*panoramas have no", "ignore:AuxiliaryWarmup takes all"
)
@pytest.mark.parametrize(
    ("name", "options", "protocol", "tasks"),
    [
        ("structured3d.yaml", [], "evaluate-unaligned-29-classes.yaml", "semseg depth normals"),
        ("matterport3d.yaml", [], "evaluate-unaligned-10m-log10.yaml", "semseg depth normals"),
        ("synpass.yaml", [], None, "semseg"),
        ("deep360.yaml", ["--model.loss=PublishedLoss", "--model.loss.clamp=20"], "evaluate-unaligned.yaml", "depth"),
        ("stanford2d3d.yaml", ["--data.init_args.fold=3"], "evaluate-unaligned-10m.yaml", "semseg depth normals"),
    ],
)
def test_experiment_trains_and_is_scored(
    name: str,
    options: list[str],
    protocol: str | None,
    tasks: str,
    experiment: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert experiment("fit", name, *options) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    capsys.readouterr()
    options = [*options, "--config", protocol] if protocol else options
    assert experiment("test", name, *options, "--ckpt_path", str(checkpoint)) == 0
    printed = capsys.readouterr().out
    assert [task for task, score in SCORES.items() if score in printed] == tasks.split()


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:`test` takes the network")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocol_is_what_its_name_says(
    protocol: str, experiment: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "structured3d.yaml" if "classes" in protocol else "stanford2d3d.yaml"
    assert experiment("test", name, "--config", protocol) == 0
    printed = capsys.readouterr().out
    assert ("AbsRel/median_aligned" in printed) == ("median-aligned" in protocol)
    assert "AbsRel" in printed
    with (Path("runs") / "version_0" / "config.yaml").open() as file:
        metrics = yaml.safe_load(file)["model"]["init_args"]["metrics"]
    depth = metrics["depth"]["init_args"]
    assert depth["reduction"] == ("image" if "per-image" in protocol else "pixel")
    assert depth["max_depth"] == next((float(m) for m in (10, 100) if f"-{m}m" in protocol), None)
    assert (depth["alignment"] is None) == protocol.startswith("evaluate-unaligned")
    assert round(depth["crop"] * 512) == (68 if "cropped" in protocol else 0)
    assert depth["log_base"] == ("10" if "log10" in protocol else "e")
    assert ("semseg" in metrics) == ("29-classes" in protocol)
    if "semseg" in metrics:
        unscored = metrics["semseg"]["init_args"]["unscored"]
        assert len(NYU40_CLASSES) - len(unscored) == 29
        assert {NYU40_CLASSES.index(name) for name in unscored} == UNSCORED


@pytest.mark.filterwarnings("ignore:.*panoramas have no", "ignore:AuxiliaryWarmup takes all")
@pytest.mark.parametrize("options", [[], ["--trainer.limit_val_batches=0"]])
def test_label_free_training(
    options: list[str], experiment: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("data"), fake_pseudo_labels.files())
    if options:
        Path("data/db_info/panomtdu_val.json").unlink()
    assert experiment("fit", "label_free/pretrain.yaml", "--data.init_args.views_from_step=1", *options) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 2
    assert len(saved["network"]["classes"]) == 150
    if not options:
        assert experiment("validate", "label_free/pretrain.yaml", "--ckpt_path", str(checkpoint)) == 0
        printed = capsys.readouterr().out
        assert all(score.replace("test/", "val/") in printed for score in SCORES.values())


# Iterations and warm-up, both in steps of 6 panoramas.
@pytest.mark.parametrize(
    ("name", "steps", "warmup", "tasks"),
    [
        ("structured3d.yaml", 30_000, 500, None),
        ("stanford2d3d.yaml", 1000, 200, None),
        ("matterport3d.yaml", 1000, 100, None),
        ("synpass.yaml", 10_000, 500, ["semseg"]),
        ("deep360.yaml", 5000, 500, ["depth"]),
    ],
)
def test_experiment_is_the_published_one(
    name: str, steps: int, warmup: int, tasks: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "base.yaml", "--config", name, "--print_config"])
    assert end.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, trainer = config["model"]["init_args"], config["trainer"]
    network = model["network"]["init_args"]
    assert (network["source"], network["tasks"]) == ("mtpano-large.408k", tasks)
    assert (model["lr"], model["weight_decay"], model["optimizer"]) == (2e-5, 5e-6, "adam")
    assert (model["schedule"], model["power"], trainer["gradient_clip_val"]) == ("polynomial", 0.9, 10)
    assert (trainer["max_steps"], config["data"]["init_args"]["batch_size"]) == (steps + warmup, 6)
    assert trainer["callbacks"][0]["init_args"] == {"steps": warmup, "lr": 1e-3}


def test_label_free_training_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "base.yaml", "--config", "label_free/pretrain.yaml", "--print_config"])
    assert end.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, trainer, data = config["model"]["init_args"], config["trainer"], config["data"]["init_args"]
    assert (model["lr"], model["weight_decay"], model["optimizer"]) == (2e-5, 5e-6, "adam")
    assert (model["schedule"], model["power"], trainer["gradient_clip_val"]) == ("polynomial", 0.9, 10)
    assert (trainer["max_steps"], trainer["val_check_interval"], data["batch_size"]) == (180_000 + 1000, 1000, 4)
    assert trainer["callbacks"][0]["init_args"] == {"steps": 1000, "lr": 1e-3}
    assert (data["view_tasks"], data["views_from_step"]) == (["depth"], 1000 + 1000)
    network = model["network"]["init_args"]
    encoder = network["encoder"]["init_args"]
    assert "vit_large_patch16_dinov3" in encoder["name"] and encoder["pretrained"]
    assert timm.is_model_pretrained(encoder["name"])
    assert (data["height"], data["width"]) == tuple(network["input_size"]) == (512, 1024)


@pytest.mark.slow
def test_the_quickstart_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder, by the name of the configuration; its scores are those of `test_quickstart.py`."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "quickstart.yaml", *TINY]) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    assert load_model(checkpoint)(torch.rand(1, 3, 32, 64))["depth"].isfinite().all()


# A small encoder with weights of nothing, where the recipe has ImageNet's.
TINY_PHOTOS = {
    "model": {
        "network": {
            "class_path": "PDBridgeNet",
            "init_args": {
                "input_size": [32, 64],
                **TINY_SIZES,
                "encoder": {
                    "class_path": "CNNEncoder",
                    "init_args": {"name": "test_efficientnet", "width": 16, "stride": 8, "pretrained": False},
                },
            },
        }
    },
    "data": {
        "init_args": {
            "modules": {
                name: {"class_path": f"{kind}DataModule", "init_args": _TINY_SCENES}
                for name, kind in {"homes": "Homes", "streets": "Streets", "any_attitude": "Homes"}.items()
            },
            "samples_per_epoch": 2,
        }
    },
}


TINY_ROOMS_TOO = {
    "modules": {
        **TINY_PHOTOS["data"]["init_args"]["modules"],
        "rooms": {"class_path": "RoomsDataModule", "init_args": _TINY_SCENES},
    },
    "samples_per_epoch": 20,
}
ON_A_CPU = ["photos-small.yaml", "photos-small-cpu.yaml", "photos-small-cpu-larger.yaml", "photos-small-cpu-slow.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configs", "changes"),
    [
        (["streets.yaml"], []),
        (["photos-small.yaml"], [TINY_PHOTOS]),
        (["photos-small.yaml"], [TINY_PHOTOS, {"data": {"init_args": {"render_on": "device"}}}]),
        (ON_A_CPU[:2], [{"data": TINY_PHOTOS["data"]}]),
        (ON_A_CPU, [{"data": TINY_PHOTOS["data"]}, {"data": {"init_args": TINY_ROOMS_TOO}}]),
    ],
    ids=[
        "streets",
        "photos",
        "photos that the device renders",
        "photos on a CPU",
        "photos on a CPU, slow encoder",
    ],
)
def test_homes_and_streets_train_together(
    configs: list[str],
    changes: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word for config in configs for word in ("--config", config)]
    if "photos-small-cpu.yaml" in configs:  # which starts from a network that is there
        described = dict(TINY_PHOTOS["model"]["network"]["init_args"])
        encoder = CNNEncoder(**described.pop("encoder")["init_args"])
        tasks = ("semseg", "depth", "normals", "valid")
        PDBridgeNet(encoder, SCENE_CLASSES, tasks, **described).save_pretrained(
            "slow-begin" if configs == ON_A_CPU else "photos-start"
        )
        changes = [*changes, {"trainer": {"devices": 1, "strategy": "auto"}}]
        changes.append({"model": {"network": {"init_args": {"input_size": [32, 64]}}}})
    for number, change in enumerate([TINY_MIXTURE, *changes]):
        (tmp_path / f"tiny{number}.yaml").write_text(yaml.safe_dump(change))
        arguments += ["--config", f"tiny{number}.yaml"]
    assert main(["fit", *arguments]) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    assert main(["test", *arguments, "--ckpt_path", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    network = load_model(checkpoint)
    scores = [*SCORES.values(), *(["test/valid/"] if "valid" in network.tasks else [])]
    assert all(score in printed for score in scores)
    assert network.classes == SCENE_CLASSES


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_all_sets_of_a_photos_training_have_the_size_of_its_network(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test above makes every set tiny, which would hide different sizes."""
    monkeypatch.chdir(tmp_path)
    arguments = [word for config in ON_A_CPU[:count] for word in ("--config", config)]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *arguments, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    size = printed["model"]["init_args"]["network"]["init_args"]["input_size"]
    sets = printed["data"]["init_args"]["modules"].values()
    assert [[one["init_args"]["height"], one["init_args"]["width"]] for one in sets] == [size] * len(sets)


@pytest.mark.slow
def test_rooms_are_trained_in_two_halves_scored_and_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an empty folder, by the names of the configurations; the second half starts from the first."""
    monkeypatch.chdir(tmp_path)
    once = ["--config", "rooms-tiny.yaml", *TINY]
    assert main(["fit", *once]) == 0
    (first,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    assert main(["test", *once, "--ckpt_path", str(first)]) == 0
    assert "test/semseg/mIoU" in capsys.readouterr().out
    assert main(["predict", *once, "--ckpt_path", str(first)]) == 0
    assert len(list(Path("runs").glob("*/predictions/*_depth.npy"))) == 2

    both = ["fit", "--config", "rooms-tiny.yaml", "--config", "rooms-tiny-larger.yaml"]
    source = f"--model.network.init_args.source={first}"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*both, source, "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert (data["height"], data["train_count"], data["black_poles"]) == (96, 2192, 0.15)
    before = set(Path("runs").glob("*"))
    assert main([*both, source, *TINY, "--model.lr=0"]) == 0
    (folder,) = set(Path("runs").glob("*")) - before
    initial, after = load_model(first), load_model(folder / "checkpoints" / "last.ckpt")
    assert after.input_size == (96, 192)
    weights = after.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in initial.named_parameters())
    assert initial(torch.rand(1, 3, 32, 64))["depth"].isfinite().all()


@pytest.mark.parametrize("config", ROOMS)
def test_print_config_names_every_argument(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config, "--print_config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("layer_scale", "weight_decay", "gradient_clip_val", "train_count"))
