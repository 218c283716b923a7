"""The shipped choices of teachers through the real command line, at tiny size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
import yaml
from PIL import Image

from mtpano_zoo.classes import ADE20K_CLASSES
from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule
from mtpano_zoo.resources import shipped

LABELING: dict[str, list[str]] = {
    "label_free/label-oracle-rooms.yaml": [],
    "label_free/label.yaml": ["photos"],
}


@pytest.mark.parametrize("name", LABELING)
def test_labels_are_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shipped choice of teachers, with networks of the same kind in miniature in place of the published ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    arguments = ["label", *LABELING[name], "--config", name, "--config", "tiny.yaml", "--out", "labels"]
    tiny: dict[str, Any] = {"height": 32, "width": 64, "num_workers": 0, "trainer": {"accelerator": "cpu"}}
    tiny["views"] = {"init_args": {"count": 4, "size": 56}}
    if name == "label_free/label.yaml":
        tiny["teachers"] = _tiny_teachers(yaml.safe_load((shipped("configs") / name).read_text())["teachers"])
        Path("photos").mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
        Image.fromarray(pixels).save("photos/street.jpg")
    else:
        tiny["data"] = {"init_args": {"height": 32, "width": 64, "train_count": 2}}
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert main(arguments) == 0
    data = PseudoLabelDataModule("labels", height=32, width=64)
    batch = next(iter(data.train_dataloader()))
    assert len(batch["id"]) == (1 if name == "label_free/label.yaml" else 2)
    assert (batch["depth"] > 0).float().mean() > 0.5
    assert (batch["normals"].norm(dim=1) > 0.9).float().mean() > 0.5
    assert (batch["semseg"] != 255).float().mean() > 0.5


def _tiny_teachers(teachers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same teachers on networks with random weights, which are written to the current folder."""
    classes = {"id2label": dict(enumerate(ADE20K_CLASSES)), "label2id": {c: i for i, c in enumerate(ADE20K_CLASSES)}}
    small = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4}
    swin = transformers.SwinConfig(image_size=64, out_features=["stage1", "stage2", "stage3", "stage4"], **small)
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2}
    segmenter = transformers.Mask2FormerConfig(
        backbone_config=swin, num_queries=6, num_attention_heads=2, encoder_feedforward_dim=16, **sizes, **classes
    )
    transformers.Mask2FormerForUniversalSegmentation(segmenter).save_pretrained("segmenter")
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained("segmenter")
    encoder = transformers.Dinov2Config(
        **{"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        **{"out_indices": [1, 2, 3, 4], "apply_layernorm": True, "reshape_hidden_states": False},
    )
    estimator = transformers.DepthAnythingConfig(
        **{"backbone_config": encoder, "reassemble_hidden_size": 16, "neck_hidden_sizes": [8] * 4},
        **{"fusion_hidden_size": 8, "head_hidden_size": 4, "depth_estimation_type": "metric", "max_depth": 20},
    )
    transformers.DepthAnythingForDepthEstimation(estimator).save_pretrained("estimator")
    transformers.DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained("estimator")
    segments, normals = teachers
    segments["init_args"]["source"] = "segmenter"
    normals["init_args"]["teacher"]["init_args"]["source"] = "estimator"
    return [segments, normals]
