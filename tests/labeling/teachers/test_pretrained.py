import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.depth_estimator import DepthEstimator
from mtpano_zoo.labeling.teachers.segmenter import Segmenter

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The smallest segmenter, as `save_pretrained` writes it."""
    config = transformers.SegformerConfig(
        num_encoder_blocks=1,
        depths=[1],
        sr_ratios=[2],
        hidden_sizes=[8],
        patch_sizes=[7],
        strides=[4],
        num_attention_heads=[1],
        mlp_ratios=[2],
        decoder_hidden_size=8,
        id2label={0: "wall", 1: "floor", 2: "sky"},
        label2id={"wall": 0, "floor": 1, "sky": 2},
    )
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy that tests may damage."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_provenance_says_what_was_used(folder):
    teacher = Segmenter(str(folder), batch_size=3, precision="bfloat16")
    assert json.loads(json.dumps(teacher.provenance)) == {
        "name": "Segmenter",
        "source": str(folder),
        "revision": None,
        "sha256": {"model.safetensors": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()},
        "network": "SegformerForSemanticSegmentation",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "options": {"batch_size": 3, "size": None, "precision": "bfloat16"},
    }


def test_teachers_are_modules_that_are_not_trained(folder):
    teacher = Segmenter(str(folder))
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.parameters())
    assert teacher.to(torch.float64).network.dtype == torch.float64


def test_from_the_hub_the_commit_is_remembered(folder, tmp_path, some_views, monkeypatch):
    # The cache of the Hub's client as a download leaves it, and no connection.
    repository = tmp_path / "hub" / "models--user--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = some_views()
    local = Segmenter(str(folder))
    for revision in (None, "main", COMMIT):
        teacher = Segmenter("user/tiny", revision)
        assert teacher.provenance["source"] == "user/tiny" and teacher.provenance["revision"] == COMMIT
        assert teacher.provenance["sha256"] == local.provenance["sha256"]
        assert torch.equal(teacher(seen).probabilities, local(seen).probabilities)
    with pytest.raises(FileNotFoundError, match=r"user/other is not in .* HF_HUB_OFFLINE is set"):
        Segmenter("user/other")
    (repository / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"^model\.safetensors of user/tiny"):
        Segmenter("user/tiny")


def test_weights_may_come_in_parts(folder, tmp_path, some_views):
    whole = Segmenter(str(folder))
    parts = tmp_path / "parts"
    whole.network.save_pretrained(parts, max_shard_size="4KB")
    shutil.copy(folder / "preprocessor_config.json", parts)
    assert not (parts / "model.safetensors").exists()
    teacher = Segmenter(str(parts))
    assert len(teacher.provenance["sha256"]) == len(list(parts.glob("*.safetensors"))) > 1
    seen = some_views()
    assert torch.equal(teacher(seen).probabilities, whole(seen).probabilities)


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Segmenter(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="is a folder: a revision is for"):
        Segmenter(str(folder), revision="main")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json"):
        Segmenter(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Segmenter(str(folder))


class Bomb:
    def __reduce__(self):
        return exec, ("import sys; sys.exploded = True",)


def test_pickles_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: write it with save_pretrained"):
        Segmenter(str(folder))
    assert not hasattr(sys, "exploded")


def test_code_of_a_repository_is_not_run(folder):
    (folder / "modeling.py").write_text("import sys\nsys.exploded = True\n")
    edit(folder, model_type="own", auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"})
    with pytest.raises(ValueError, match=r"is not a network that transformers .* knows"):
        Segmenter(str(folder))
    assert not hasattr(sys, "exploded")


def test_other_networks_are_refused(folder):
    with pytest.raises(ValueError, match="cannot be loaded by AutoModelForDepthEstimation"):
        DepthEstimator(str(folder), kind="metric")
    edit(folder, model_type="a_new_one")
    with pytest.raises(ValueError, match=r"is not a network that transformers .* knows"):
        Segmenter(str(folder))


def test_missing_weights_are_not_made_up(folder):
    encoder = Segmenter(str(folder)).network.segformer
    encoder.save_pretrained(folder)  # what a network is before it is trained to segment
    with pytest.raises(
        ValueError, match=r"lacks \d+ weights of SegformerForSemanticSegmentation .* such as decode_head"
    ):
        Segmenter(str(folder))


def test_weights_of_another_shape_are_refused(folder):
    edit(folder, decoder_hidden_size=16)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of .* such as decode_head"):
        Segmenter(str(folder))


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be loaded by"):
        Segmenter(str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "must be positive"),
        ({"size": 0}, "must be positive"),
        ({"precision": "half"}, "precision must be one of float32, bfloat16, float16"),
    ],
)
def test_refuses_what_makes_no_sense(folder, options, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(str(folder), **options)


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'mtpano_zoo\[teachers\]'"):
        Segmenter(str(folder))


@pytest.mark.parametrize(
    "named",
    [
        {"backbone": "somebody/else"},
        {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": True},
        {"backbone": "resnet18", "use_timm_backbone": True},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:somebody/else"}},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "LOCAL-DIR:/etc"}},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "use_pretrained_backbone": True}},
        {"backbone_config": {"model_type": "timm_wrapper", "architecture": "hf_hub:somebody/else"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["mask2former", "depth_anything", "segformer"])
def test_a_teacher_is_not_built_from_another(folder, asked, named, architecture):
    edit(folder, model_type=architecture, **named)
    for teacher in (Segmenter, DepthEstimator):
        with pytest.raises(ValueError, match=rf"^{folder} refers to .*: a teacher must contain all its parts"):
            teacher(str(folder))
    assert asked == []


@pytest.mark.parametrize("repository", ["somebody/else", "/etc"])
def test_a_preprocessing_reads_no_other_file(folder, asked, repository):
    """OneFormer's preprocessing takes class names from wherever its file says."""
    path = folder / "preprocessor_config.json"
    other = {"image_processor_type": "OneFormerImageProcessor", "repo_path": repository, "class_info_file": "hostname"}
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    Segmenter(str(folder))
    assert asked == []


@pytest.fixture
def asked(monkeypatch):
    """Repositories requested from the Hub beside the folder of the teacher."""
    seen = []

    def ask(**options):
        seen.append(options["repo_id"])
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.file_download._hf_hub_download_to_cache_dir", ask)
    return seen


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": ["model.safetensors"]},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/etc/model.safetensors"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
    ],
    ids=repr,
)
def test_an_index_of_another_kind_is_refused(folder, index):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json (has no valid weight_map|holds a list)"):
        Segmenter(str(folder))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_what_is_nested_too_deeply_is_refused_by_name(folder, name):
    (folder / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(InputError, match=rf"tiny/{name} is nested more than 64 levels"):
        Segmenter(str(folder))
