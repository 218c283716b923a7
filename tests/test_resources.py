from pathlib import Path

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import cache_folder, shipped, with_shipped_configs


def test_shipped_configuration_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_shipped_configs(["fit", "--config", "quickstart.yaml"])[2]
    assert Path(path) == shipped("configs/quickstart.yaml")
    assert with_shipped_configs(["fit", "--config=quickstart.yaml"])[2] == path
    own = tmp_path / "quickstart.yaml"
    own.write_text("seed_everything: 1\n")
    assert with_shipped_configs(["fit", "--config", "quickstart.yaml"])[2] == "quickstart.yaml"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_shipped_configs(["fit", "--config=~/quickstart.yaml"])[2] == str(own)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("quikstart.yaml", "did you mean quickstart.yaml, which is shipped?"),
        ("quickstart", "did you mean quickstart.yaml, which is shipped?"),
        ("pretrain.yaml", "did you mean label_free/pretrain.yaml, which is shipped?"),
        ("structured_3d.yaml", "did you mean structured3d.yaml, which is shipped?"),
        ("no_such.yaml", "structured3d.yaml, synpass.yaml."),
    ],
)
def test_a_missing_configuration(name: str, end: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        with_shipped_configs(["fit", "--config", name])
    assert str(error.value).startswith(f"There is no configuration at {name}; ")
    assert str(error.value).endswith(end)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"model: {lr: [\n", "mine.yaml is not YAML: line 2, column 1: "),
        (b"- 1\n", "mine.yaml is not a configuration: it has no `name: value`"),
        (b"", "mine.yaml is not a configuration: it has no `name: value`"),
        (b"\xff\xfe\x80\x01", "mine.yaml is not UTF-8 text"),
    ],
)
def test_what_is_no_configuration_is_named(
    content: bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        with_shipped_configs(["fit", "--config", "mine.yaml"])
    assert "\n" not in str(error.value)


def test_the_cache_is_where_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTPANO_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", "/somewhere/huggingface")
    for given in ("", None):
        monkeypatch.setenv("MTPANO_CACHE", given) if given is not None else monkeypatch.delenv("MTPANO_CACHE")
        assert cache_folder() == Path.home() / ".cache" / "mtpano_zoo"
