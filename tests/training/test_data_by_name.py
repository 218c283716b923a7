import pytest

import mtpano_zoo.data
from mtpano_zoo.data import Augmentation, RoomsDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.training.data_by_name import build_data, class_name


def test_every_data_module_has_a_short_name():
    modules = [name for name in mtpano_zoo.data.__all__ if name.endswith("DataModule")]
    assert len(modules) > 3
    for name in modules:
        assert class_name(name) == class_name(name.removesuffix("DataModule").lower()) == name


@pytest.mark.parametrize(
    "section", ["RoomsDataModule", "{class_path: mtpano_zoo.data.RoomsDataModule}", "{class_path: rooms}"]
)
def test_a_configuration_is_read_as_fit_reads_it_and_options_replace_its_entries(section, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(f"data: {section}\ntrainer: {{max_epochs: 3}}\n")
    data = build_data(config=config, options=["train_count=7", "augmentation={class_path: Augmentation}"])
    assert isinstance(data, RoomsDataModule)
    assert len(data.train_set) == 7
    assert isinstance(data.train_set.augmentation, Augmentation)
    config.write_text("data: {class_path: RoomsDataModule, init_args: {train_count: 5, height: 64, width: 128}}\n")
    data = build_data(config=config, options=["train_count=7"])
    assert (len(data.train_set), data.train_set.height) == (7, 64)


def test_what_is_no_configuration_is_told(tmp_path):
    config = tmp_path / "bad.yaml"
    for content, sentence in (("{", "is not YAML"), ("- 1", "no section"), ("data: {a: 1}", "no section")):
        config.write_text(content)
        with pytest.raises(ValueError, match=sentence) as error:
            build_data(config=config)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="with either --data NAME or --config FILE"):
        build_data("rooms", config=config)
    with pytest.raises(InputError, match=r"there is no class nowhere\.at\.All"):
        build_data("nowhere.at.All")
    with pytest.raises(InputError, match=r"mtpano_zoo\.data\.RoomDataModule; did you mean RoomsDataModule"):
        build_data("mtpano_zoo.data.RoomDataModule")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "RoomDataModule",
            [],
            "There is no data set RoomDataModule; did you mean rooms? Known names are deep360, folder",
        ),
        ("folders", [], "did you mean folder?"),
        ("structured_3d", [], "did you mean structured3d?"),
        ("xyz", [], "There is no data set xyz. Known names are"),
        ("rooms", ["tran_count=2"], "RoomsDataModule has no argument tran_count; did you mean train_count?"),
        ("rooms", ["train_count=two"], "data.train_count cannot be two. It takes int."),
        ("folder", [], "FolderDataModule needs root. Its arguments are --root DIR and KEY=VALUE."),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(name, options, sentence):
    with pytest.raises(InputError) as error:
        build_data(name, options=options)
    assert sentence in str(error.value) and "\n" not in str(error.value)
