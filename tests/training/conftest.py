import pytest
import yaml
from tiny_training import CONFIG


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path
