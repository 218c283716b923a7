import pytest

from mtpano_zoo.data.rooms_writer import write_rooms


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("homes")
    write_rooms(folder, "test", 3, 16, 32)
    return folder
