"""The list of samples to leave out."""

import pytest
from fake_files import png, random_rgb, write

from mtpano_zoo.data import FolderDataModule
from mtpano_zoo.data.inspection import verify
from mtpano_zoo.data.skip_list import write_skip_list
from mtpano_zoo.errors import InputError


@pytest.mark.parametrize("name", ["a\nb", " a", "a\n"])
def test_an_id_that_a_list_would_lose_is_refused(name, tmp_path):
    """Healthy panoramas of the names that would be read instead stay."""
    write(tmp_path, {"images/a.png": png(random_rgb()), "images/b.png": png(random_rgb()), f"images/{name}.png": b""})
    data = FolderDataModule(tmp_path, height=32, width=64)
    report = verify(data, progress=False)
    assert report.faulty == [name]
    with pytest.raises(InputError, match=r"' has blanks at an end or a line break, which .*: rename the file"):
        write_skip_list(tmp_path / "skip.txt", report, data)
    assert not (tmp_path / "skip.txt").exists()
