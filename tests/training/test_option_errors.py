import logging
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tiny_training import TinyDataModule

from mtpano_zoo.cli import main as mtpano
from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import shipped, with_shipped_configs
from mtpano_zoo.training.cli import complete_command
from mtpano_zoo.training.option_errors import explain, nearest_class, one_sentence, refuse_null

QUICK = ["--config", "quickstart.yaml"]
NO_LOSS = ["--model.network=Pretrained", "--model.network.source=mtpano-tiny.rooms", "--data=RoomsDataModule"]
CALLBACK = '--trainer.callbacks=[{"class_path": "ModelCheckpoint", "init_args": {%s}}]'


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "model: MultiTaskModule needs network. A complete command is `mtpano fit --config quickstart.yaml`"),
        (["--config", "base.yaml"], "--data is missing. A complete command is"),
        (
            ["--config", "deep360.yaml"],
            "The class of model.network (class_path) is missing. deep360.yaml must follow base.yaml: "
            "`mtpano fit --config base.yaml --config deep360.yaml`.",
        ),
        (
            ["--config", "structured3d.yaml"],
            "model: MultiTaskModule needs network. structured3d.yaml must follow base.yaml: `mtpano fit --config ",
        ),
        (
            ["--config", "evaluate-unaligned.yaml"],
            "`mtpano fit --config base.yaml --config structured3d.yaml --config evaluate-unaligned.yaml`.",
        ),
        (
            ["--config", "rooms-tiny-larger.yaml"],
            "The class of data (class_path) is missing. rooms-tiny-larger.yaml must follow rooms-tiny.yaml: ",
        ),
        (
            ["--config", "photos-small-cpu-slow.yaml"],
            "must follow photos-small.yaml and photos-small-cpu.yaml and photos-small-cpu-larger.yaml: `mtpano fit "
            "--config photos-small.yaml --config photos-small-cpu.yaml --config photos-small-cpu-larger.yaml --config ",
        ),
        ([*QUICK, "--model.learning_rate=1"], "model: MultiTaskModule has no argument learning_rate; did you mean lr?"),
        ([*QUICK, "--lr=1"], "There is no option --lr; did you mean --model.lr?"),
        ([*QUICK, "--max_epochs=1"], "did you mean --trainer.max_epochs?"),
        ([*QUICK, "--batch_size", "1"], "did you mean --data.batch_size?"),
        ([*QUICK, "--ckpt-path=x"], "did you mean --ckpt_path?"),
        ([*QUICK, "-x"], "There is no option -x. --help lists them all."),
        (["quickstart.yaml"], "quickstart.yaml belongs to no option; did you mean --config quickstart.yaml?"),
        ([*QUICK, "--model.lr=fast"], "model.lr cannot be fast. It takes float."),
        ([*QUICK, "--model.schedule=polynomal"], "did you mean polynomial? It takes polynomial, cosine, constant."),
        ([*QUICK, "--trainer.precision=16-mied"], "trainer.precision cannot be 16-mied; did you mean 16-mixed?"),
        ([*QUICK, "--trainer.max_epochs=many"], "trainer.max_epochs cannot be many. It takes int."),
        ([*QUICK, "--model.network.class_path=PDBridgeNett"], "no class PDBridgeNett; did you mean PDBridgeNet? Name"),
        ([*QUICK, "--model.network=PDBridgeNett"], "no class PDBridgeNett; did you mean PDBridgeNet? Name"),
        ([*QUICK, "--model.network=mtpano_zoo.models.PDBridgeNett"], "PDBridgeNett; did you mean PDBridgeNet?"),
        ([*QUICK, "--model.network.encoder=ViTEncoderr"], "no class ViTEncoderr; did you mean ViTEncoder?"),
        (
            [*QUICK, "--data=SemiSupervisedDataModule", "--data.labelled=RoomDataModule"],
            "data.labelled: there is no class RoomDataModule; did you mean RoomsDataModule?",
        ),
        ([*QUICK, "--model.network=no_such_module.Network"], "model.network: there is no class no_such_module.Network"),
        ([*QUICK, "--data", "RoomDataModule"], "data: there is no class RoomDataModule; did you mean RoomsDataModule?"),
        ([*QUICK, "--data", "rooms"], "data: there is no class rooms; did you mean RoomsDataModule?"),
        ([*QUICK, "--model.loss=MultiTaskLos"], "did you mean MultiTaskLoss?"),
        ([*NO_LOSS, "--model.loss.weights={semseg: 2}"], "The class of model.loss (class_path) is missing. Name one"),
        ([*NO_LOSS, "--model.loss.init_args.weights.semseg=2"], "of model.loss (class_path) is missing. Name one"),
        ([*QUICK, "--model.loss.wieghts.semseg=2"], "MultiTaskLoss has no argument wieghts.semseg; did you mean weigh"),
        ([*NO_LOSS, "--model.network.init_args.input_size=null"], "model.network.input_size cannot be null on the"),
        ([*NO_LOSS, "--model.network.tasks=null"], "model.network.tasks cannot be null on the command line: set it"),
        ([*QUICK, "--trainer.logger=TensorBordLogger"], "did you mean TensorBoardLogger?"),
        ([*QUICK, "--trainer.callbacks+=ModelChekpoint"], "did you mean ModelCheckpoint?"),
        ([*QUICK, "--data.augmentation.class_path=Augmentatoin"], "data.augmentation: there is no class Augmentatoin;"),
        ([*QUICK, "--data.augmentation.init_args.tlt=1"], "Augmentation has no argument tlt; did you mean tilt?"),
        ([*QUICK, "--data.init_args.batch_sise=2"], "RoomsDataModule has no argument batch_sise; did you mean batch_s"),
        ([*QUICK, "--data.batch_sise=2"], "RoomsDataModule has no argument batch_sise; did you mean batch_size?"),
        ([*QUICK, "--data.root=x"], "RoomsDataModule has no argument root; it has height, width, train_count, "),
        ([*QUICK, "--model.network.encodr=x"], "PDBridgeNet has no argument encodr; did you mean encoder?"),
        ([*QUICK, "--model.network.encoder.width=wide"], "encoder.width cannot be wide. It takes int."),
        ([*QUICK, CALLBACK % '"save_lst": true'], "ModelCheckpoint has no argument save_lst; did you mean save_last?"),
        ([*QUICK, CALLBACK % '"mode": "mx"'], "`mode` can be min, max but got mx"),
        ([*QUICK, "--data.init_args.batch_size=0"], "batch_size must be positive and num_workers not negative: 0, 0"),
        ([*QUICK, "--data=FolderDataModule", "--data.root=none"], "none is not a folder"),
        ([*QUICK, "--trainer.accelerator=gpuu"], "invalid accelerator name: `accelerator='gpuu'`"),
        ([*QUICK, "--trainer.devices=0"], "`Trainer(devices='0')` value is not a valid input using cpu"),
        ([*QUICK, "--trainer.max_epochs=-7"], "`max_epochs` must be a non-negative integer or -1"),
        ([*QUICK, "--model.lr=null"], "model.lr cannot be null: set a value, or leave it out if it has a default."),
        ([*QUICK, "--data.batch_size=null"], "data.batch_size cannot be null: set a value"),
        ([*QUICK, "--model.lr=-1"], "lr, encoder_lr and weight_decay must not be negative, but are -1.0"),
        ([*QUICK, "--seed_everything=-5"], "seed_everything is a whole number from 0 to 4294967295, not -5."),
        ([*QUICK, "--seed_everything=x"], "seed_everything cannot be x. It takes bool, int."),
    ],
)
def test_a_wrong_option_is_one_sentence_with_the_right_name(options, sentence, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, "lightning.pytorch")
    assert mtpano(["fit", *options]) == 1
    (line,) = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("Seed set")]
    assert line.startswith("mtpano: ")
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"model": {"lrr": 1}}, "model: MultiTaskModule has no argument lrr; did you mean lr?"),
        ({"modle": {"lr": 1}}, "There is no option modle.lr; did you mean model.lr?"),
        ({"trainer": {"max_epoch": 1}}, "There is no option trainer.max_epoch; did you mean trainer.max_epochs?"),
        ({"trainer": {"callbacks": [{"class_path": "ModelChekpoint"}]}}, "did you mean ModelCheckpoint?"),
        ({"model": {"metrics": {"depth": {"class_path": "DepthMetric"}}}}, "did you mean DepthMetrics?"),
        ({"model": {"warmup_steps": None}}, "model.warmup_steps cannot be null: set a value, or leave it out"),
        ({"model": {"network": {"init_args": {"bridge_width": None}}}}, "model.network.bridge_width cannot be null"),
        (
            {"trainer": {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"mode": None}}]}},
            "trainer.callbacks.0.mode cannot be null",
        ),
        ({"model": {"network": {"init_args": {"encodr": 1}}}}, "no argument encodr; did you mean encoder?"),
    ],
)
def test_a_wrong_name_in_a_file_too(written, sentence, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written))
    assert mtpano(["fit", *QUICK, "--config", str(tmp_path / "mine.yaml")]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--out is missing. A complete command is `mtpano label PANORAMAS --config label_free/label.yaml"),
        (["--max_hieght=3"], "There is no option --max-hieght; did you mean --max-height?"),
        (["--listed_as=vall"], "--listed-as cannot be vall; did you mean val? It takes train, val, test."),
        (["--teachers.class_path=OracleTeacherr"], "did you mean OracleTeacher?"),
        (["--views.count=null"], "views.count cannot be null: set a value"),
        (["--views.class_path=RandomView"], "did you mean RandomViews?"),
        (["--masker=GroundMasker"], "did you mean GroundedMasker?"),
        (["--data=RoomDataModule"], "did you mean RoomsDataModule?"),
    ],
)
def test_the_same_for_label(options, sentence, capsys):
    complete = ["--config", "label_free/label-oracle-rooms.yaml", "--out", "x"] if options else []
    assert mtpano(["label", *complete, *options]) == 1
    assert sentence in capsys.readouterr().err


def test_a_class_is_found_among_those_that_an_argument_takes():
    for hint in (LightningDataModule, LightningDataModule | None, list[LightningDataModule] | bool):
        assert nearest_class("Rooms", hint) == "RoomsDataModule"
        assert nearest_class("TinyDataModul", hint) == TinyDataModule.__name__  # whatever is imported
        assert nearest_class("DepthMetrics", hint) is nearest_class("XyzDataModule", hint) is None
    assert nearest_class("RoomsDataModul", str | int) is nearest_class("RoomsDataModul", None) is None


def test_shipped_configurations_that_are_not_complete_say_what_they_go_after():
    names = {path.relative_to(shipped("configs")).as_posix() for path in shipped("configs").rglob("*.yaml")}
    alone = ["base.yaml", "depth_anywhere/base.yaml"]  # these come first
    alone += ["curation/label.yaml", "curation/discriminator.yaml"]  # these name no `network`
    for name in names:
        content = yaml.safe_load((shipped("configs") / name).read_text())
        model = content.get("model", {})
        what = {*model, *model.get("init_args", {})} & {"network", "base"}  # a generator has a base
        complete = what and "class_path" in content.get("data", {})
        if complete or {"teachers", "masker"} & content.keys() or name in alone:
            continue
        sentence = complete_command(with_shipped_configs(["fit", "--config", name]))
        command = sentence.partition("`mtpano fit ")[2].removesuffix("`.").split()
        assert command[-1] == name and len(command) > 3 and set(command[1::2]) <= names


class Faulty:
    """Fails as a fault of the program does."""

    def __init__(self, kind: str = "fault") -> None:
        errors = {"fault": ValueError("x"), "ours": InputError("ours\nof us"), "file": FileNotFoundError("no file")}
        raise {**errors, "Lightning": MisconfigurationException("a\nb"), "missing": ImportError("install it")}[kind]


@pytest.mark.parametrize(
    ("kind", "expected", "text"),
    [
        ("fault", ValueError, None),
        ("ours", InputError, "ours\nof us"),
        ("file", FileNotFoundError, "no file"),
        ("Lightning", InputError, "a b"),
        ("missing", InputError, "install it"),
    ],
)
def test_only_what_was_raised_on_purpose_becomes_a_sentence(kind, expected, text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=Faulty | None)
    parsed = parser.parse_args([f"--it={__name__}.Faulty", f"--it.kind={kind}"])
    with pytest.raises(expected) as error, one_sentence():
        parser.instantiate(parsed)
    assert text is None or str(error.value) == text
    assert (kind == "fault") == (not isinstance(error.value, InputError | OSError))


def test_a_message_of_another_kind_stays_on_one_line():
    assert explain("Something\n  - else\n    Errors:\n") == "Something else"


class Inner:
    def __init__(self, size: int = 1, name: str | None = None) -> None: ...


class Untyped:
    def __init__(self, path, size=None, inner: Inner | None = None): ...


class Outer:
    def __init__(self, named: dict[str, list[Inner]] | None = None) -> None: ...


def function(size: int, name: str | None = None) -> Inner:
    return Inner(size, name)


def of(argument: Any, **arguments: Any) -> Namespace:
    path = f"{argument.__module__}.{argument.__qualname__}"
    return Namespace(one=Namespace(class_path=path, init_args=Namespace(**arguments)))


def test_null_is_refused_where_a_type_says_so_in_classes_and_functions_of_users():
    for allowed in (
        of(Untyped, path=None, size=None, inner=None),
        of(function, size=1, name=None),
        of(Inner, name=None),
    ):
        refuse_null(allowed)
    refuse_null(of(Outer, named=None))
    with pytest.raises(InputError, match=r"^one\.size cannot be null"):
        refuse_null(of(function, size=None))
    with pytest.raises(InputError, match=r"^one\.named\.a\.1\.size cannot be null"):
        refuse_null(of(Outer, named={"a": [of(Inner).one, of(Inner, size=None).one]}))
