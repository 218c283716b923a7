import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mtpano_zoo.commands.quickstart import METRICS, free_folder, quickstart
from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import shipped


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    config = yaml.safe_load(shipped("configs/quickstart.yaml").read_text())
    config["data"]["init_args"] |= {
        "height": 32, "width": 64, "train_count": 4, "val_count": 2, "test_count": 3, "batch_size": 2,
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_trains_scores_and_draws(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 100, 3), dtype=np.uint8)).save(photo)
    out = tmp_path / "out"
    scores = quickstart(tiny_config, out, [photo])

    assert len(scores) == 3
    prior = scores["latitude only"]
    assert all(set(row) == set(METRICS) and all(np.isfinite(list(row.values()))) for row in scores.values())
    # Four training rooms tell nothing, but floor below and ceiling above are known to anyone who knows the latitude.
    assert prior["mIoU"] > 0.1
    assert prior["normals, mean error in degrees"] < 60
    assert json.loads((out / "metrics.json").read_text()) == scores
    assert len((out / "table.md").read_text().splitlines()) == 5
    panels = sorted((out / "panels").iterdir())
    assert [path.suffix for path in panels] == [".png"] * 3
    assert all(Image.open(path).width == 1600 for path in panels)
    assert (out / "images" / "photo_panel.png").is_file()
    networks = [next((out / name).glob("version_0/checkpoints/last.ckpt")) for name in ("pd_bridgenet", "one_stream")]
    assert networks[0].stat().st_size > networks[1].stat().st_size
    first = out / "mtpano-small.photos" / "photo_panel.png"  # by the network that comes along, before any training
    assert first.stat().st_mtime < networks[0].stat().st_mtime
    printed = capsys.readouterr().out
    assert "latitude only" in printed
    last = out / "pd_bridgenet/version_0/checkpoints/last.ckpt"
    assert printed.splitlines()[-2] == f"  mtpano run PANORAMA_OR_FOLDER --model {last}"


@pytest.mark.parametrize(
    "content",
    ["trainer: {max_epochs: 1}", "model: {network: {class_path: mtpano_zoo.models.UniFuse}}", "model: UniFuse"],
)
def test_another_network_is_refused_before_anything_is_written(content: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(content)
    with pytest.raises(InputError, match=r"other\.yaml trains .*, but the quickstart .* `mtpano fit --config"):
        quickstart(tmp_path / "other.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_earlier_results_are_kept(tmp_path: Path) -> None:
    wanted = tmp_path / "quickstart"
    assert free_folder(wanted) == wanted
    wanted.mkdir()
    assert free_folder(wanted) == tmp_path / "quickstart-2"
    (tmp_path / "quickstart-2").mkdir()
    assert free_folder(wanted) == tmp_path / "quickstart-3"
