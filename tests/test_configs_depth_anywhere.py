"""The rows of Depth Anywhere's tables through the real command line, at tiny size."""

from pathlib import Path

import cv2
import fake_matterport3d
import fake_stanford2d3d
import fake_structured3d
import numpy as np
import pytest
import torch
import transformers
import yaml
from fake_files import write
from tiny_maskers import write_detector, write_segmenter
from tiny_networks import tiny_dap

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.data import Stanford2D3DDataModule
from mtpano_zoo.models import UniFuse
from mtpano_zoo.resources import shipped

FOLDER = "depth_anywhere"
SMALL = {"input_size": [32, 64]}
NETWORKS = {
    "unifuse.yaml": SMALL | {"encoder": "test_resnet", "pretrained": False},
    "bifuse.yaml": SMALL | {"encoder": "test_resnet", "pretrained": False},
    "hohonet.yaml": SMALL
    | {
        "encoder": "test_resnet",
        "pretrained": False,
        "height": 32,
        "width": 16,
        "heads": 2,
        "embedding": 8,
        "components": 8,
    },
    "egformer.yaml": SMALL | {"width": 8},
}
ROWS = {
    "matterport3d.yaml": ([], ["--data.init_args.train_on_all=true"]),
    "tangent.yaml": (
        ["structured3d.yaml", "tangent.yaml"],
        ["--data.init_args.ratio=2", "--data.init_args.unlabelled.init_args.train_on_all=true"],
    ),
    "spatialaudiogen.yaml": (
        ["spatialaudiogen.yaml"],
        ["--data.init_args.ratio=4", "--data.init_args.labelled.init_args.train_on_all=true"],
    ),
}


def write_teacher(folder):
    """Depth Anything in miniature."""
    encoder = transformers.Dinov2Config(
        **{"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        **{"out_indices": [1, 2, 3, 4], "apply_layernorm": True, "reshape_hidden_states": False},
    )
    config = transformers.DepthAnythingConfig(
        **{"backbone_config": encoder, "reassemble_hidden_size": 16, "neck_hidden_sizes": [8] * 4},
        **{"fusion_hidden_size": 8, "head_hidden_size": 4, "depth_estimation_type": "relative"},
    )
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained(folder)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The data sets and networks in miniature, where the configurations look for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    write(Path("data/Matterport3D"), fake_matterport3d.files())
    return tmp_path


def tiny(network, row):
    """What is smaller than in the row."""
    sizes = {"height": 32, "width": 64}
    trainer = {"accelerator": "cpu", "max_epochs": -1, "max_steps": 1, "limit_val_batches": 0}
    config = {
        "trainer": trainer | {"enable_progress_bar": False, "enable_model_summary": False},
        "model": {"init_args": {"network": {"init_args": network}}},
        "data": {"init_args": {"batch_size": 1, "num_workers": 0}},
    }
    if row == "matterport3d.yaml":
        config["data"]["init_args"] |= sizes
        return config
    config["data"]["init_args"] |= {
        "labelled": {"init_args": sizes},
        "unlabelled": {"init_args": sizes},
    }
    labels = {"teacher": {"init_args": {"source": "teacher"}}, "views": {"init_args": {"size": 16}}}
    config["model"]["init_args"]["labels"] = {"init_args": labels}
    return config


def fit(files, overrides, *options):
    Path("tiny.yaml").write_text(yaml.safe_dump(overrides))
    chosen = [f"--config={FOLDER}/{name}" for name in files]
    return main(["fit", *chosen, "--config", "tiny.yaml", *options])


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")
@pytest.mark.parametrize(
    ("network", "row"),
    [("unifuse.yaml", row) for row in ROWS]
    + [(name, "matterport3d.yaml") for name in NETWORKS if name != "unifuse.yaml"],
)
def test_a_row_is_trained(network, row, place):
    files, options = ROWS[row]
    if row != "matterport3d.yaml":
        write_teacher("teacher")
    if "structured3d.yaml" in files:
        write(Path("data/Structured3D"), fake_structured3d.files())
    if row == "spatialaudiogen.yaml":
        mask()
    assert fit(["base.yaml", *(files or [row]), network], tiny(NETWORKS[network], row), *options) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    trained = load_model(checkpoint)
    assert trained.tasks == ("disparity",)
    assert trained(torch.rand(1, 3, 32, 64))["disparity"].isfinite().all()


def middle(values):
    """The lower of two middle values, as published."""
    return np.sort(values)[(len(values) - 1) // 2]


def paper_score(disparity, truth):
    """AbsRel as the paper words it: inverted, then scaled by the medians."""
    depth = 1 / disparity.clip(1e-6)
    return np.mean(np.abs((depth * middle(truth) / middle(depth)).clip(0.001, 10) - truth) / truth)


def code_score(disparity, truth):
    """AbsRel as the published code computes it: scale and shift fitted, inverted, then scaled by the medians."""
    columns = np.stack((disparity, np.ones_like(disparity)), axis=1)
    fitted = columns @ np.linalg.lstsq(columns, 1 / truth, rcond=None)[0]
    depth = (1 / fitted).clip(0, 10)
    return np.mean(np.abs((depth * middle(truth) / middle(depth)).clip(0.1, 10) - truth) / truth)


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no", "ignore:`test` takes")
@pytest.mark.parametrize(
    ("protocol", "options", "score", "name"),
    [
        ([], [], paper_score, "AbsRel/median_aligned"),
        (
            ["evaluate-published.yaml"],
            ["--model.init_args.metrics.disparity.init_args.crop=0.1328125"],
            code_score,
            "AbsRel/affine_and_median_aligned",
        ),
    ],
)
def test_a_trained_student_gets_the_score_of_the_protocol(protocol, options, score, name, place, capsys):
    write(Path("data/Stanford2D3D"), fake_stanford2d3d.files())
    torch.manual_seed(0)
    UniFuse("test_resnet", input_size=(32, 64)).save_pretrained("trained")
    student = load_model("trained")
    overrides = tiny({"source": "local-dir:trained"}, "matterport3d.yaml")
    Path("tiny.yaml").write_text(yaml.safe_dump(overrides))
    files = ["base.yaml", "test-stanford2d3d.yaml", "pretrained.yaml", *protocol]
    chosen = [f"--config={FOLDER}/{file}" for file in files]
    assert main(["test", *chosen, "--config", "tiny.yaml", *options]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if f"test/disparity/{name} " in line)
    expected = []
    for sample in Stanford2D3DDataModule("data/Stanford2D3D", tasks=["depth"], height=32, width=64).dataset("test"):
        with torch.no_grad():
            disparity = student(sample["image"][None])["disparity"][0, 0].double().numpy()[4:-4]
        truth = sample["depth"].double().numpy()[4:-4]
        known = (truth > 0) & (truth <= 10)
        expected.append(score(disparity[known], truth[known]))
    assert len(expected) == 2
    assert float(line.split()[-1]) == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no", "ignore:`test` takes")
def test_dap_is_a_student(place):
    """In metres: its inverse learns from inverse distances, and the protocol takes its distances."""
    tiny_dap(tasks=("depth",)).save_pretrained("dap")
    write(Path("data/Structured3D"), fake_structured3d.files())
    write_teacher("teacher")
    overrides = tiny({"source": "local-dir:dap"}, "structured3d.yaml")
    assert fit(["base.yaml", "structured3d.yaml", "dap.yaml"], overrides) == 0
    assert load_model(next(Path("runs").glob("version_0/checkpoints/last.ckpt"))).tasks == ("depth",)
    Path("tested.yaml").write_text(yaml.safe_dump(tiny({"source": "local-dir:dap"}, "matterport3d.yaml")))
    files = [f"--config={FOLDER}/{name}" for name in ("base.yaml", "test-structured3d.yaml", "dap.yaml")]
    assert main(["test", *files, "--config", "tested.yaml"]) == 0


def mask():
    """Frames of a video, masked as shipped but by tiny networks, of which everything is kept."""
    Path("data/SpatialAudioGen").mkdir(parents=True)
    video = cv2.VideoWriter("data/SpatialAudioGen/abc.avi", cv2.VideoWriter_fourcc(*"MJPG"), 1, (96, 48))
    for seed in range(3):
        video.write(np.random.default_rng(seed).integers(0, 255, (48, 96, 3), np.uint8))
    video.release()
    write_detector(Path("detector"))
    write_segmenter(Path("segmenter"))
    sources = {"detector": "detector", "segmenter": "segmenter"}
    small = {"height": 32, "width": 64, "num_workers": 0, "min_valid": 0, "trainer": {"accelerator": "cpu"}}
    Path("small.yaml").write_text(yaml.safe_dump(small | {"masker": {"init_args": sources}}))
    arguments = ["--config", f"{FOLDER}/mask.yaml", "--config", "small.yaml"]
    assert main(["label", *arguments, "--out", "data/SpatialAudioGen-masked"]) == 0
    assert len(list(Path("data/SpatialAudioGen-masked/masks").iterdir())) == 3


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")
def test_a_network_of_inverse_distances_becomes_one_of_metres(place):
    torch.manual_seed(0)
    before = UniFuse("test_resnet", input_size=(32, 64))
    before.save_pretrained("trained")
    write(Path("data/Stanford2D3D"), fake_stanford2d3d.files())
    overrides = tiny({"source": "local-dir:trained"}, "matterport3d.yaml")
    assert fit(["metres.yaml"], overrides, "--model.init_args.lr=0") == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    after = load_model(checkpoint)
    assert after.tasks == ("depth",)
    assert all(torch.equal(before.state_dict()[name], value) for name, value in after.named_parameters())


def test_every_file_is_tried():
    names = {path.name for path in (shipped("configs") / FOLDER).glob("*.yaml")}
    assert names == {
        *NETWORKS,
        *ROWS,
        "structured3d.yaml",
        "test-structured3d.yaml",
        "test-stanford2d3d.yaml",
        "pretrained.yaml",
        "dap.yaml",
        "base.yaml",
        "mask.yaml",
        "metres.yaml",
        "evaluate-published.yaml",
    }


def test_the_recipe_is_the_published_one(capsys):
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                *(f"--config={FOLDER}/{name}" for name in ("base.yaml", "structured3d.yaml", "unifuse.yaml")),
                "--print_config",
            ]
        )
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["lr"], model["weight_decay"], model["optimizer"], model["schedule"]) == (1e-4, 0, "adam", "constant")
    assert (model["label_weight"], model["pseudo_weight"]) == (0.5, 0.5)
    assert model["loss"]["init_args"]["max_depth"] == 10
    assert model["labels"]["init_args"]["views"]["init_args"] == {"fov": 90, "size": 256, "turn": 45, "seed": 0}
    assert not model["labels"]["init_args"]["per_batch"]
    assert (data["batch_size"], data["ratio"], config["trainer"]["max_epochs"]) == (3, 1, 200)
    assert model["network"]["init_args"]["input_size"] == [512, 1024]
    assert data["unlabelled"]["init_args"]["tasks"] == []
