import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import CLASSES, TinyDataModule, TinyDataset, TinyNetwork

from mtpano_zoo.cli import main as mtpano
from mtpano_zoo.training.cli import classes_of, main, next_commands, palette_of
from mtpano_zoo.zoo import load_model

CHECKPOINTS = "runs/version_0/checkpoints"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("tiny_network_is_known")
def test_from_a_yaml_to_scores_and_predictions(folder, capsys):
    """The whole command line without a single warning."""
    main(["fit", "--config", "tiny.yaml"])
    best = f"{CHECKPOINTS}/best.ckpt"
    assert torch.load(best, weights_only=True)["network"]["classes"] == list(CLASSES)
    network = load_model(best)
    assert isinstance(network, TinyNetwork)
    assert network.classes == CLASSES  # the YAML does not name them: they are linked from the data
    assert network.config["width"] == 4

    saved = yaml.safe_load((folder / "runs/version_0/config.yaml").read_text())
    assert saved["seed_everything"] == 0
    assert saved["model"]["class_path"] == "mtpano_zoo.training.MultiTaskModule"
    assert saved["model"]["init_args"]["loss"]["init_args"]["auxiliary_weight"] == 0.2

    main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "3", "--ckpt_path", f"{CHECKPOINTS}/last.ckpt"])
    assert (folder / "runs/version_1/checkpoints").is_dir()  # the first run is left as it was
    resumed = torch.load("runs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert resumed["global_step"] == 12

    capsys.readouterr()
    main(["validate", "--config", "runs/version_0/config.yaml", "--ckpt_path", best])
    assert "val/semseg/mIoU" in capsys.readouterr().out
    main(["test", "--config", "tiny.yaml", "--ckpt_path", best])
    assert re.search(r"test/normals/mean\s", capsys.readouterr().out)
    main(["predict", "--config", "tiny.yaml", "--ckpt_path", best])
    results = {path.name for path in (folder / "runs/version_4/predictions").iterdir()}
    assert len(results) == 20 + 2  # and what made them, and of which panoramas they are
    assert {"sample_0_semseg.png", "sample_3_depth.npy", "sample_2_panel.png"} <= results


def test_the_scores_of_the_best_checkpoint_are_those_it_was_chosen_by(folder, capsys):
    """Averaged weights were validated, so averaged weights must have been saved, and must be loaded."""
    main(["fit", "--config", "tiny.yaml"])
    chosen = torch.load(f"{CHECKPOINTS}/best.ckpt", weights_only=True)["callbacks"]
    score = next(
        state["best_model_score"] for name, state in chosen.items() if name.startswith(ModelCheckpoint.__name__)
    )
    capsys.readouterr()
    cli = main(["validate", "--config", "tiny.yaml", "--ckpt_path", f"{CHECKPOINTS}/best.ckpt"])
    assert float(cli.trainer.callback_metrics["val/semseg/mIoU"]) == pytest.approx(float(score), abs=1e-6)
    shown = re.search(r"^val/semseg/mIoU +([\d.]+)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert float(shown.group(1)) == pytest.approx(float(score), abs=5e-5)


def test_every_run_leaves_last_ckpt_and_says_how_to_use_it(folder, capsys):
    """Also where the configuration names no checkpoint, and where another is chosen by a score."""
    none = "--trainer.callbacks=null"
    assert mtpano(["fit", "--config", "tiny.yaml", none]) == 0
    printed = capsys.readouterr().out
    assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["last.ckpt"]
    assert torch.load(f"{CHECKPOINTS}/last.ckpt", weights_only=True)["global_step"] == 8  # of the last epoch
    assert f"  mtpano run PANORAMA_OR_FOLDER --model {CHECKPOINTS}/last.ckpt\n" in printed
    test = f"mtpano test --config runs/version_0/config.yaml --ckpt_path {CHECKPOINTS}/last.ckpt"
    assert printed.splitlines()[-1] == f"  {test}"
    assert mtpano(test.split()[1:]) == 0  # as it stands there
    assert "test/semseg/mIoU" in capsys.readouterr().out
    assert mtpano(["fit", "--config", "tiny.yaml"]) == 0  # which monitors mIoU
    assert "The network is in runs/version_2/checkpoints/best.ckpt" in capsys.readouterr().out
    by_steps = "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {save_last: true, every_n_train_steps: 3}}"
    assert mtpano(["fit", "--config", "tiny.yaml", by_steps]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("It was saved after step 6 of 8")
    assert mtpano(["fit", "--config", "tiny.yaml", none, "--trainer.fast_dev_run=true"]) == 0
    assert "The network is" not in capsys.readouterr().out
    assert mtpano(["fit", "--config", "tiny.yaml", none, "--trainer.enable_checkpointing=false"]) == 0
    assert "The network is" not in capsys.readouterr().out


def test_classes_are_scored_in_their_order_with_four_digits(folder, capsys):
    main(["test", "--config", "tiny.yaml", "--trainer.callbacks=null"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("test/")]
    names = [name for name, _ in rows]
    scored = [name.removeprefix("test/semseg/IoU/") for name in names if "/IoU/" in name]
    assert scored == [name for name in CLASSES if name in scored] and len(scored) > 1 and scored != sorted(scored)
    assert names[-len(scored) :] == [f"test/semseg/IoU/{name}" for name in scored]
    assert all(len(value.replace(".", "").lstrip("0")) <= 4 for _, value in rows)


def test_two_runs_with_the_same_seed_are_the_same(folder):
    main(["fit", "--config", "tiny.yaml"])
    main(["fit", "--config", "tiny.yaml"])
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in folder.glob("runs/*/*/last.ckpt"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_users_choices_win(folder):
    options = ["--config", "tiny.yaml", "--trainer.fast_dev_run", "true", "--trainer.callbacks", "null"]
    main(["fit", *options, "--trainer.logger", "false", "--trainer.enable_progress_bar", "true"])
    main(["fit", *options[:-1], "[{class_path: TQDMProgressBar}]", "--trainer.enable_progress_bar", "true"])
    assert not (folder / "runs").exists()


@pytest.mark.filterwarnings("ignore:PanelLogger draws nothing")
def test_the_configuration_of_an_earlier_run_is_kept(folder):
    arguments = ["fit", "--config", "tiny.yaml", "--trainer.logger=false", "--trainer.max_epochs=1"]
    arguments.append('--trainer.callbacks=[{"class_path": "PanelLogger"}]')
    cli = main(arguments)
    kept = (folder / "config.yaml").read_bytes()
    printed = shlex.split(next_commands(cli.trainer).splitlines()[-1])
    assert printed[:2] == ["mtpano", "test"]
    main(printed[1:])
    with pytest.raises(FileExistsError, match=r"config\.yaml of an earlier run: set --trainer\.default_root_dir"):
        main([*arguments, "--model.lr=0.5"])
    assert (folder / "config.yaml").read_bytes() == kept


def test_checkpoints_do_not_override_the_users_settings(folder):
    main(["fit", "--config", "tiny.yaml"])
    ckpt = ["--ckpt_path", f"{CHECKPOINTS}/last.ckpt"]
    main(["fit", "--config", "tiny.yaml", "--model.power", "0.5", "--trainer.max_epochs", "3", *ckpt])
    assert yaml.safe_load((folder / "runs/version_1/config.yaml").read_text())["model"]["init_args"]["power"] == 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("lr=0.05", "trained with lr 0.01, but here lr is 0.05: to resume it, pass --model.lr=0.01"),
        ("encoder_lr=0.05", "trained with encoder_lr 0.001, but here encoder_lr is 0.05"),
        ("weight_decay=0.5", "trained with weight_decay 0.01, but here weight_decay is 0.5"),
        ("optimizer=adam", "trained with optimizer adamw, but here optimizer is adam"),
    ],
)
def test_training_resumes_with_the_optimiser_it_began_with(folder, capsys, change, sentence):
    """Refused, because the optimiser of the checkpoint would be used; the learning rate of a schedule is no change."""
    assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=1"]) == 0
    resume = ["fit", "--config", "tiny.yaml", f"--ckpt_path={CHECKPOINTS}/last.ckpt"]
    assert mtpano([*resume, f"--model.{change}"]) == 1
    told = capsys.readouterr().err
    assert sentence in told and "--model.network=Pretrained" in told
    assert not (folder / "runs/version_1").exists()
    assert mtpano(resume) == 0 and (folder / "runs/version_1/config.yaml").is_file()


@pytest.mark.usefixtures("tiny_network_is_known")
@pytest.mark.parametrize("option", ["model.network.init_args.width=8", "model.freeze_encoder=true"])
def test_a_refused_run_leaves_no_folder(folder, capsys, option):
    assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=1"]) == 0
    arguments = ["--config", "tiny.yaml", f"--ckpt_path={CHECKPOINTS}/last.ckpt"]
    assert mtpano(["fit", *arguments, f"--{option}"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    for verb in ("validate", "test", "predict"):
        assert mtpano([verb, *arguments, "--model.network.init_args.width=8"]) == 1
    assert [path.name for path in (folder / "runs").iterdir()] == ["version_0"]


@pytest.mark.usefixtures("tiny_network_is_known")
def test_a_first_run_that_is_refused_leaves_none_either(folder, capsys):
    log = "--trainer.logger={class_path: TensorBoardLogger, init_args: {save_dir: logs/of/mine, name: ''}}"
    for options in ([], [log]):
        assert mtpano(["fit", "--config", "tiny.yaml", "--model.warmup_steps=-1", *options]) == 1
        assert "warmup_steps must not be negative" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("states", [[], [{}], [{"state": {}, "param_groups": [{}]}], None, ["a"]])
def test_a_damaged_state_of_the_optimiser_is_refused(folder, capsys, states):
    assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=1"]) == 0
    whole = torch.load(f"{CHECKPOINTS}/last.ckpt", weights_only=True)
    torch.save(whole | {"optimizer_states": states}, "damaged.ckpt")
    capsys.readouterr()
    assert mtpano(["fit", "--config", "tiny.yaml", "--ckpt_path=damaged.ckpt"]) == 1
    assert "state of the optimiser in damaged.ckpt is damaged" in (told := capsys.readouterr().err)
    assert "Traceback" not in told and not (folder / "runs/version_1").exists()


@pytest.mark.usefixtures("tiny_network_is_known")
def test_weights_alone_are_not_resumed_from(folder, capsys):
    keep = "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {save_weights_only: true, filename: last}}"
    assert mtpano(["fit", "--config", "tiny.yaml", keep]) == 0
    path = f"{CHECKPOINTS}/last.ckpt"
    assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=3", f"--ckpt_path={path}"]) == 1
    advice = f"--model.network=Pretrained --model.network.init_args.source={path}"
    assert f"{path} holds weights only" in (told := capsys.readouterr().err) and advice in told
    assert not (folder / "runs/version_1").exists()
    fast = ["--trainer.fast_dev_run=true", "--trainer.callbacks=null"]
    assert mtpano(["fit", "--config", "tiny.yaml", *fast, *advice.split()]) == 0
    assert mtpano(["test", "--config", "tiny.yaml", f"--ckpt_path={path}"]) == 0


def test_a_training_that_was_finished_already_says_so(folder, capsys):
    arguments = ["fit", "--config", "tiny.yaml", "--trainer.callbacks=null"]
    assert mtpano(arguments) == 0
    assert "No step was trained" not in capsys.readouterr().out
    assert mtpano([*arguments, f"--ckpt_path={CHECKPOINTS}/last.ckpt"]) == 0
    printed = capsys.readouterr().out
    assert f"No step was trained: {folder / CHECKPOINTS}/last.ckpt ends at step 8" in printed
    assert all((folder / path).is_file() for path in re.findall(r"\S+/config\.yaml", printed))
    keep = "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {dirpath: kept, filename: one}}"
    keep = keep.replace("one}", "one, enable_version_counter: false}")  # a resumed training replaces its checkpoint
    assert mtpano(["fit", "--config", "tiny.yaml", keep]) == 0
    assert mtpano(["fit", "--config", "tiny.yaml", keep, "--trainer.max_epochs=4", "--ckpt_path=kept/one.ckpt"]) == 0
    assert "No step was trained" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 1 or more batches, not 0."),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must not be negative, but is -1"),
        ("model.warmup_steps=-1", "warmup_steps must not be negative, but is -1."),
        ("model.power=-1", "power must not be negative, but is -1.0."),
        ("trainer.val_check_interval=5", "`val_check_interval` (5) must be less than or equal to"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(folder, capsys, option, sentence):
    assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.callbacks=null", f"--{option}"]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/nope"}},
            "metric `val/nope` which is not available",
        ),
        ({"class_path": "LearningRateFinder"}, "LearningRateFinder has no effect"),
    ],
)
def test_callbacks_that_cannot_work_are_refused_in_a_sentence(folder, capsys, callback, sentence):
    tiny = yaml.safe_load(Path("tiny.yaml").read_text())
    tiny["trainer"]["callbacks"] = [callback]
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert mtpano(["fit", "--config", "tiny.yaml"]) == 1
    told = capsys.readouterr().err
    assert sentence in told and "Traceback" not in told


@pytest.mark.parametrize(("verb", "path"), [("validate", "best"), ("test", "last"), ("predict", "last")])
def test_a_run_without_training_has_no_checkpoint_of_its_own(folder, capsys, verb, path):
    assert mtpano([verb, "--config", "tiny.yaml", "--trainer.callbacks=null", "--ckpt_path", path]) == 1
    assert f"`{verb}` is a run of its own, which has no {path} checkpoint" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_last_checkpoint_of_a_chosen_folder_is_scored(folder, capsys):
    keep = ["ModelCheckpoint", "dirpath=kept", "save_last=true"]
    command = [
        "--config",
        "tiny.yaml",
        f"--trainer.callbacks={keep[0]}",
        *(f"--trainer.callbacks.{o}" for o in keep[1:]),
    ]
    assert mtpano(["test", *command, "--ckpt_path=last"]) == 1
    assert "has no last checkpoint" in capsys.readouterr().err
    assert mtpano(["fit", *command, "--ckpt_path=last"]) == 0
    capsys.readouterr()
    assert mtpano(["test", *command, "--ckpt_path=last"]) == 0
    scores = capsys.readouterr().out
    assert mtpano(["test", *command, "--ckpt_path=kept/last.ckpt"]) == 0
    assert scores == capsys.readouterr().out


def test_data_without_classes(folder, monkeypatch):
    monkeypatch.delattr(TinyDataModule, "classes")
    options = ["--model.network.init_args.tasks", "[depth]", "--trainer.fast_dev_run", "true"]
    main(["fit", "--config", "tiny.yaml", *options])
    with pytest.raises(ValueError, match="needs the names of its classes"):
        main(["fit", "--config", "tiny.yaml", "--trainer.fast_dev_run", "true"])


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_scoring_without_weights_says_so(folder, verb):
    with pytest.warns(UserWarning, match=rf"`{verb}` uses the network as built, untrained"):
        main([verb, "--config", "tiny.yaml", "--trainer.fast_dev_run", "true"])


@pytest.mark.filterwarnings("ignore:`predict` takes the network as it was built")
def test_predict_ends_by_saying_where_its_results_are(folder, monkeypatch, capsys, caplog):
    """And with status 1 if a sample has none, here because its id would be a file above the folder."""
    arguments = ["predict", "--config", "tiny.yaml", "--trainer.callbacks=PredictionWriter"]
    arguments += ["--trainer.callbacks.out=here", "--trainer.logger=false"]
    assert mtpano(arguments) == 0
    assert caplog.messages[-1] == "The predictions are in here"
    whole = TinyDataset.__getitem__
    monkeypatch.setattr(
        TinyDataset, "__getitem__", lambda self, i: whole(self, i) | ({"id": "../up"} if i == 1 else {})
    )
    (folder / "config.yaml").unlink()
    arguments[-2] = "--trainer.callbacks.out=there"
    assert mtpano(arguments) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2] == "mtpano: 1 of 4 samples were left out; the others are in there:"
    assert told[-1].startswith("  The id '../up' cannot name a file")
    assert len(list((folder / "there").glob("*_depth.npy"))) == 3
    assert not list(folder.glob("up*"))


def test_damaged_missing_and_foreign_checkpoints(folder):
    main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1"])
    tasks = ["--model.network.init_args.tasks", "[depth]"]
    with pytest.raises(ValueError, match="semseg, depth, normals, but the network has depth"):
        main(["test", "--config", "tiny.yaml", *tasks, "--ckpt_path", f"{CHECKPOINTS}/last.ckpt"])
    (folder / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cut\.ckpt cannot be read as a checkpoint"):
        main(["test", "--config", "tiny.yaml", "--ckpt_path", "cut.ckpt"])
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        main(["test", "--config", "tiny.yaml", "--ckpt_path", "absent.ckpt"])


def test_help_is_typed_and_print_config_is_complete(folder, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.help [CLASS] and --data.help CLASS list the options" in text
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.schedule {polynomial,cosine,constant}" in text
    assert "Learning rate of everything but the encoder. (type: float, default: 0.0001)" in text
    assert "mtpano_zoo.models.PDBridgeNet" in text
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "tiny.yaml", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["power"] == 0.9
    assert printed["trainer"]["logger"]["init_args"]["save_dir"] == "runs"


def test_names_and_colours_of_any_kind_become_plain_lists():
    class Data:
        classes = ("a", "b")
        palette = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)

    assert classes_of(Data()) == ["a", "b"]
    assert palette_of(Data()) == [[1, 2, 3], [4, 5, 6]]
    assert all(type(value) is int for colour in palette_of(Data()) for value in colour)
    assert (classes_of(object()), palette_of(object())) == ([], None)
