import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.models import BiFuse, EGformer, HoHoNet, UniFuse
from mtpano_zoo.models.distance_network import DistanceNetwork

STUDENTS = (BiFuse, EGformer, HoHoNet, UniFuse)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tasks": ["disparity", "depth"]}, "predicts either disparity or depth: tasks cannot be depth, disparity"),
        ({"tasks": ["normals"]}, "predicts either disparity or depth: tasks cannot be normals"),
        ({"convention": "published"}, "convention"),
        ({"input_size": (100, 200)}, "input_size is 100 x 200, but both must be multiples of 32"),
    ],
)
def test_what_does_not_fit_one_distance_is_refused(
    student: type[DistanceNetwork], options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        student(**options)
