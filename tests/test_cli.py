import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mtpano_zoo
from mtpano_zoo.cli import LIGHTNING_VERBS, build_parser, main, with_shipped_configs


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(
        f"  {verb} " in text.replace("\n", " ") for verb in (*LIGHTNING_VERBS, "run", "models", "rooms", "quickstart")
    )


def test_version_and_console_script() -> None:
    script = Path(sys.executable).with_name("mtpano")
    printed = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == mtpano_zoo.__version__


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*408k"]) == 0
    text = capsys.readouterr().out
    assert "mtpano-large.408k" in text
    assert "140k" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "resnet*"], "No model matches 'resnet*'"),
        (["run", "room.jpg", "--model", "mtpano-larg", "--out", "out"], "did you mean 'mtpano-large.408k'"),
        (["run", "room.jpg", "--model", "none/best.ckpt", "--out", "out"], "There is no checkpoint at none/best.ckpt"),
        (
            ["run", "room.jpg", "--model", "x.ckpt", "--out", "out", "--device", "gpu"],
            "The device 'gpu' cannot be used",
        ),
        (
            ["run", "room.jpg", "--model", "x.ckpt", "--out", "out", "--device", "vulkan"],
            "The device 'vulkan' cannot be used here: this PyTorch was built without it; choose cpu",
        ),
        (["quickstart", "no_such_image.jpg"], "no_such_image.jpg"),
        (["quickstart", sys.executable], "not an image"),
        (["quickstart", "--config", "no_such.yaml"], "no configuration at no_such.yaml; shipped are base.yaml, "),
        (["fit", "--config", "mine/no_such.yaml"], "no configuration at mine/no_such.yaml"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("mtpano: ")
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_shipped_configuration_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = with_shipped_configs(["fit", "--config", "quickstart.yaml"])[2]
    assert Path(shipped).is_file()
    assert with_shipped_configs(["fit", "--config=quickstart.yaml"])[2] == shipped
    own = tmp_path / "quickstart.yaml"
    own.write_text("seed_everything: 1\n")
    assert with_shipped_configs(["fit", "--config", "quickstart.yaml"])[2] == "quickstart.yaml"


def test_run_with_a_checkpoint_of_training(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a photo to all its files through the real command; a second run touches nothing; a bad image is told."""
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (41, 82, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "room.png")
    out = tmp_path / "out"
    arguments = ["run", str(photos), "--model", str(tiny_checkpoint), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    written = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    about = {"manifest.json", "manifest.images.jsonl"}
    assert set(written) == about | {
        "room_semseg.png",
        "room_depth.png",
        "room_depth.npy",
        "room_normals.png",
        "room_panel.png",
    }
    assert capsys.readouterr().out.splitlines() == ["1 written", f"The results are in {out}"]
    depth = np.load(out / "room_depth.npy")
    assert depth.shape == (41, 82)
    assert depth.dtype == np.float32
    assert main(arguments) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == written
    arguments[arguments.index(str(out))] = str(tmp_path / "maps")
    assert main([*arguments, "--no-panel"]) == 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == set(written) - {"room_panel.png"}
    arguments[arguments.index(str(tmp_path / "maps"))] = str(out)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    assert main(arguments) == 1
    assert {path.name for path in out.iterdir()} == set(written)
    capsys.readouterr()
    assert main([*arguments, "--blend-seam"]) == 1
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "other settings (options.blend_seam was False, is True)" in sentence
    assert "--out" in sentence and "--overwrite" in sentence
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == written
    copy = tmp_path / "the same weights.ckpt"
    copy.write_bytes(tiny_checkpoint.read_bytes())
    arguments[arguments.index(str(tiny_checkpoint))] = str(copy)
    main(arguments)
    assert "1 skipped" in capsys.readouterr().out


def test_run_with_the_options_of_the_published_script(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((32, 64, 3), 90, np.uint8)).save(tmp_path / "room.png")
    arguments = ["run", str(tmp_path / "room.png"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "blended"), "--blend-seam"]) == 0
    plain, blended = (np.load(tmp_path / name / "room_depth.npy") for name in ("plain", "blended"))
    assert np.flatnonzero((plain != blended).any(0)).tolist() == [0, 1, 62, 63]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "masked"), "--mask-sky"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "mtpano: mask_sky needs to know where the sky is, but this network lacks the class sky: leave it out"
    )


def test_rooms(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    assert main(["rooms", "--out", str(out), "--count", "2", "--height", "32"]) == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"images", "semseg", "depth", "normals"}
    assert len(list((out / "depth").glob("*.png"))) == 2


def test_parser_refuses_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(["predikt"])
    assert end.value.code == 2
    assert "invalid choice: 'predikt'" in capsys.readouterr().err
