import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from processes import begin
from torch.utils.data import DataLoader, Dataset
from waiting import until

import mtpano_zoo
from mtpano_zoo.cli import LIGHTNING_VERBS, build_parser, main
from mtpano_zoo.errors import InputError
from mtpano_zoo.resources import with_shipped_configs


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


def test_a_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    script = Path(sys.executable).with_name("mtpano")
    with subprocess.Popen([script, "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_another_closed_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mtpano_zoo.cli._execute", Mock(side_effect=BrokenPipeError(32, "Broken pipe")))
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "mtpano: [Errno 32] Broken pipe\n"


def _exit_with_status(arguments: list[str]) -> None:
    sys.exit(main(arguments))


def test_a_process_that_is_asked_to_end_says_so_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    out, log = tmp_path / "rooms", tmp_path / "log.txt"
    process = begin(_exit_with_status, ["rooms", "--count", "5000", "--height", "32", "--out", str(out)], log=log)
    until(lambda: any(out.glob("**/*.png")) or process.exitcode is not None, 300)
    process.terminate()
    process.join()
    assert process.exitcode == 143, log.read_text()
    assert "finished results are kept" in log.read_text()
    assert not list(out.glob("**/.*"))


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*408k"]) == 0
    text = capsys.readouterr().out
    assert "mtpano-large.408k" in text
    assert "140k" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "resnet*"], "No model matches 'resnet*'"),
        (["models", "mtpano-tiny.roms"], "No model matches 'mtpano-tiny.roms'; did you mean mtpano-tiny.rooms?"),
        (["rnu"], "There is no verb 'rnu'; did you mean run?"),
        (["run", "room.jpg", "--model", "mtpano-larg", "--out", "out"], "did you mean 'mtpano-large.408k'"),
        (["run", "room.jpg", "--model", "none/best.ckpt", "--out", "out"], "There is no checkpoint at none/best.ckpt"),
        (
            ["run", sys.executable, "--model", "mtpano-tiny.rooms", "--out", "out", "--device", "gpu"],
            "The device 'gpu' cannot be used",
        ),
        (
            ["run", sys.executable, "--model", "mtpano-tiny.rooms", "--out", "out", "--device", "vulkan"],
            "The device 'vulkan' cannot be used here: this PyTorch was built without it; choose cpu",
        ),
        (["run", "no_such_room.jpg", "--out", "out"], "There is no image at no_such_room.jpg."),
        (["run", "room.jpg", "--batch-size", "0"], "a number of images is 1 or more, not 0"),
        (["quickstart", "no_such_image.jpg"], "no_such_image.jpg"),
        (["quickstart", sys.executable], "not an image"),
        (
            ["quickstart", "--config", "no_such.yaml"],
            "no configuration at no_such.yaml; the shipped ones are base.yaml, ",
        ),
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


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert "explains a verb" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "resnet*"],
        ["rooms", "--out", "x", "--height", "0"],
        ["fit", "--config", "quickstart.yaml", "--model.lrr=1"],
        ["label", "--out", "x", "--config", "label_free/label.yaml", "--hieght=3"],
    ],
)
def test_traceback_shows_where_our_own_errors_come_from(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    sentence = capsys.readouterr().err.strip().removeprefix("mtpano: ")
    with pytest.raises(InputError) as error:
        main([arguments[0], "--traceback", *arguments[1:]])
    assert str(error.value) == sentence


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError])
def test_a_fault_of_the_program_shows_where_it_is(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes through, so that Python prints its traceback and exits with 1."""

    def broken(pattern: str) -> None:
        raise kind("a fault")

    monkeypatch.setattr(importlib.import_module("mtpano_zoo.zoo.entries"), "models_table", broken)
    with pytest.raises(kind, match="a fault") as error:
        main(["models"])
    assert error.traceback[-1].name == "broken"


class Unreadable(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise InputError("room.png cannot be used: it is damaged")

    def __len__(self) -> int:
        return 1


def test_an_error_in_a_process_that_reads_data_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = importlib.import_module("mtpano_zoo.zoo.entries")
    monkeypatch.setattr(entries, "models_table", lambda pattern: list(DataLoader(Unreadable(), num_workers=1)))
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "mtpano: room.png cannot be used: it is damaged\n"


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_commands_of_the_readme_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", README, flags=re.DOTALL):
        Path(name).write_text(text)  # the files that the reader is asked to write
    Path("runs/version_0").mkdir(parents=True)  # what the first training writes
    shutil.copy(Path(__file__).parents[1] / "configs" / "quickstart.yaml", "runs/version_0/config.yaml")
    blocks = re.findall(r"```bash\n(.*?)```", README.replace("\\\n", ""), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    commands = [line[1:] for line in lines if line[:1] == ["mtpano"]]
    assert len(commands) > 12
    for arguments in commands:
        arguments = with_shipped_configs(arguments)
        if arguments[0] in LIGHTNING_VERBS:
            with pytest.raises(SystemExit, match="0"):
                main([*arguments, "--print_config"])
        elif arguments[0] not in ("label", "curate", "generate"):  # they have parsers of their own
            build_parser().parse_args(arguments)


def test_run_with_a_checkpoint_of_training(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a photo to all its files through the real command; a second run touches nothing; a bad image is reported."""
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
    threads, sentence = capsys.readouterr().err.strip().splitlines()
    assert threads.startswith("threads: ")
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
    assert {path.name for path in out.iterdir()} == {"images", "semseg", "depth", "normals", "classes.yaml"}
    assert len(list((out / "depth").glob("*.png"))) == 2
