import copy
import inspect

import numpy as np
import pytest
from lightning import LightningDataModule

from mtpano_zoo import data
from mtpano_zoo.data.arguments import CheckedArguments, _parameters
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.data import PromptsDataModule, ScenesWithCaptions
from mtpano_zoo.generation.precompute import LatentsDataModule

NAMED = [getattr(data, name) for name in data.__all__ if name.endswith("DataModule")]
MODULES = [*NAMED, PromptsDataModule, LatentsDataModule, ScenesWithCaptions]


@pytest.mark.parametrize("kind", MODULES)
def test_every_argument_of_a_data_module_is_checked(kind):
    names = inspect.signature(kind).parameters
    assert {"batch_size", "num_workers"} <= _parameters(kind).keys() and "self" not in names
    # The parameters of a base class are passed as **options.
    for name in _parameters(kind) if "options" in names else names:
        with pytest.raises(InputError, match=rf"^{kind.__name__}: {name} must be .+, not b'x'$"):
            kind(**{name: b"x"})  # what else is missing does not matter


def test_the_message_states_the_type(tmp_path):
    for options, wanted in (
        ({"batch_size": "x"}, "batch_size must be int, not 'x'"),
        ({"tasks": ["depth", 3]}, r"tasks must be Sequence\[str\] \| None, not \['depth', 3\]"),
        ({"val_fraction": "a"}, "val_fraction must be float, not 'a'"),
        ({"augmentation": {}}, r"augmentation must be Augmentation \| None, not \{\}"),
    ):
        with pytest.raises(InputError, match=f"^FolderDataModule: {wanted}$"):
            data.FolderDataModule(tmp_path, **options)
    with pytest.raises(InputError, match=r"^FolderDataModule: root must be str \| Path, not 3$"):
        data.FolderDataModule(3)
    with pytest.raises(InputError, match=r"^MixedDataModule: modules must be dict\[str, LightningDataModule\], not"):
        data.MixedDataModule({"rooms": "RoomsDataModule"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        data.RoomsDataModule(colour=3)


def test_right_arguments_pass(tmp_path):
    rooms = data.RoomsDataModule(np.int64(8), 16, 2, 1, 1, tilt=np.float32(5), augmentation=lambda sample: sample)
    assert copy.copy(rooms).batch_size == 8 and isinstance(rooms, LightningDataModule)
    data.MixedDataModule({"rooms": rooms}, weights={"rooms": 1}, class_map={"rooms": {"wall": None}})

    class Own(CheckedArguments):
        def __init__(self, size: tuple[int, str] = (3, "px"), limit: int = None, more: "int" = 3):  # noqa: RUF013
            self.size = size

    assert Own((4, "m"), None, "x").size == (4, "m")
