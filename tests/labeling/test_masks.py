"""Masks by words and by classes: tiny random networks, compared with the library's own processing and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from tagged_files import partly_seen
from tiny_labeling import TINY, Grey
from tiny_maskers import write_detector, write_segmenter
from tiny_networks import tiny_bridgenet
from torch import nn
from torch.testing import assert_close

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.datamodule import ImageFiles
from mtpano_zoo.labeling.masks import ClassMasker, GroundedMasker, Masker, shrink_masks
from mtpano_zoo.labeling.module import Labeler, TooLittleLeftError
from mtpano_zoo.labeling.run import build_parser, label
from mtpano_zoo.labeling.teachers import OracleTeacher
from mtpano_zoo.labeling.views import CubeViews
from mtpano_zoo.resize import resize


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    write_detector(folder / "detector")
    write_segmenter(folder / "segmenter")
    return {"detector": str(folder / "detector"), "segmenter": str(folder / "segmenter")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def image():
    coarse = torch.rand(1, 3, 5, 10, generator=torch.Generator().manual_seed(3))
    smooth = nn.functional.interpolate(coarse, (48, 96), mode="bicubic")[0].clamp(0, 1)
    return (smooth * 255).round() / 255


def test_boxes_and_words_are_those_of_the_library(networks):
    # In the size that the network sees, for files and tensors are not resized alike to the last bit.
    image = torch.randint(0, 256, (3, 64, 128), generator=torch.Generator().manual_seed(3)) / 255
    masker = GroundedMasker(("sky", "watermark"), **networks, box_threshold=0.0)
    boxes, fits = masker.detector.detect(image)
    assert boxes.shape == (9, 4) and fits.shape == (9, 2)
    tokens = masker.detector.tokens
    processor = masker.detector.processor
    picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    inputs = processor(images=[picture], return_tensors="pt")
    network = masker.detector.network
    with torch.no_grad():
        output = network(**inputs, input_ids=tokens, attention_mask=torch.ones_like(tokens))
    # The words are [CLS] sky . water ##mark . [SEP].
    assert tokens[0].tolist() == [2, 6, 5, 7, 8, 5, 3]
    fit = output.logits[0].sigmoid()
    assert_close(fits, torch.stack((fit[:, 1], fit[:, 3:5].amax(1)), 1), rtol=1e-3, atol=1e-4)
    x, y, w, h = output.pred_boxes[0].unbind(-1)
    assert_close(
        boxes,
        torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1) * torch.tensor([128, 64, 128, 64]),
        rtol=1e-3,
        atol=1e-2,
    )


def test_masks_of_boxes_are_those_of_the_library(networks, image):
    masker = GroundedMasker(**networks)
    boxes = torch.tensor([[5.0, 4.0, 40.0, 30.0], [50.0, 10.0, 90.0, 47.0]])
    masks = masker.segmenter.segment(image, boxes)
    processor = transformers.SamProcessor(masker.segmenter.processor)
    picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    inputs = processor(picture, input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        output = masker.segmenter.network(**inputs, multimask_output=False)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    (expected,) = processor.image_processor.post_process_masks(output.pred_masks, *sizes)
    assert masks.shape == (2, 48, 96)
    assert 0 < masks.float().mean() < 1
    assert (masks == expected[:, 0]).float().mean() > 0.99


def test_thresholds_choose_boxes_and_names(networks, image, monkeypatch):
    masker = GroundedMasker(("sky", "watermark"), **networks)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    fits = torch.tensor([[0.31, 0.1], [0.29, 0.28], [0.2, 0.9], [0.35, 0.26]])
    monkeypatch.setattr(masker.detector, "detect", lambda image: (boxes, fits))

    def fill(image, boxes):
        columns, rows = torch.arange(96), torch.arange(48)[:, None]
        return torch.stack([(columns >= b[0]) & (columns < b[2]) & (rows < b[3]) for b in boxes])

    monkeypatch.setattr(masker.segmenter, "segment", fill)
    sky, watermark = masker(image)
    assert sky[:, :20].any() and not sky[:, 20:60].any() and sky[:, 60:].any()
    assert not watermark[:, :40].any() and watermark[:, 40:50].any() and watermark[:, 60:].any()
    monkeypatch.setattr(masker.detector, "detect", lambda image: (boxes, fits * 0.1))
    assert not masker(image).any()


def test_classes_of_a_network_of_the_zoo_are_masks():
    network = tiny_bridgenet(tasks=("semseg",))
    masker = ClassMasker(network, ["wall", "ceiling"])
    image = torch.rand(3, 32, 64)
    with torch.no_grad():
        classes = network(image[None])["semseg"].argmax(1)[0]
    assert torch.equal(masker(image), torch.stack((classes == 1, classes == 2)))
    # In a panorama of another size, every pixel has the class of the network's nearest one.
    larger = torch.rand(3, 40, 80)
    network.forward = lambda image: {"semseg": image}
    classes = resize(larger, 32, 64).argmax(0)
    rows, columns = (((torch.arange(size) + 0.5) * 0.8).long() for size in (40, 80))
    nearest = classes[rows[:, None], columns]
    assert torch.equal(masker(larger), torch.stack((nearest == 1, nearest == 2)))
    other = ClassMasker(tiny_bridgenet(tasks=("semseg",)), ["wall", "ceiling"])
    assert other.provenance != masker.provenance  # other weights, so masks of both do not mix in a folder
    with pytest.raises(InputError, match="no class sky, only floor, wall, ceiling"):
        ClassMasker(network)


def test_a_configuration_names_classes_and_network_without_their_modules(tmp_path: Path):
    """Classes are found only in modules that were imported; `test_import_graph.py` shows that `label` imports these."""
    network = {"class_path": "Pretrained", "init_args": {"source": "mtpano-small.photos"}}
    config = tmp_path / "masks.yaml"
    config.write_text(yaml.safe_dump({"masker": {"class_path": "ClassMasker", "init_args": {"network": network}}}))
    parsed = build_parser().parse_args(["photos", "--config", str(config), "--out", "masked"])
    assert parsed.masker.class_path == "mtpano_zoo.labeling.masks.ClassMasker"
    assert parsed.masker.init_args.network.class_path == "mtpano_zoo.zoo.pretrained.Pretrained"


class Upper(Masker):
    """Masks this share of the rows, from the top."""

    names, provenance = ("sky",), {"name": "upper"}

    def __init__(self, share):
        self.share = share

    def __call__(self, image):
        mask = torch.zeros(1, *image.shape[-2:], dtype=torch.bool)
        mask[:, : round(self.share * image.shape[-2])] = True
        return mask


def test_what_is_masked_gets_no_label_and_too_little_is_left_out():
    sample = {"image": torch.rand(3, 32, 64), "depth": torch.full((32, 64), 2.0), "id": "a"}
    made = OracleTeacher(tasks=["depth"])
    labels = Labeler(CubeViews(size=16), [made], height=32, width=64, masker=Upper(0.5)).label("a", sample)
    assert not labels.depth[:16].any() and (labels.depth[17:] > 0).all()
    assert labels.masks["sky"].sum() == 16 * 64
    most = Labeler(CubeViews(size=16), [made], height=32, width=64, masker=Upper(0.9))
    with pytest.raises(TooLittleLeftError, match=r"only 9% .* less than 20%"):
        most.label("a", sample)
    assert Labeler(None, [], height=32, width=64, masker=Upper(0.9), min_valid=0).label("a", sample).depth is None


@pytest.mark.parametrize("teachers", [[], [Grey()]])
def test_the_merged_mask_covers_all_that_gets_no_label(teachers, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    seen = partly_seen(photos)
    tripod = np.arange(32)[:, None] >= np.full(64, 29)
    Image.fromarray(tripod).save(tmp_path / "tripod.png")
    options = {"height": 32, "width": 64, "masker": Upper(0.25), "min_valid": 0}
    labeler = Labeler(CubeViews(size=16), teachers, invalid_mask=tmp_path / "tripod.png", **options)
    assert len(label(ImageFiles([photos], out), out, labeler, settings={}, trainer=TINY["trainer"]).done) == 2
    samples = PseudoLabelDataModule(out, height=32, width=64, tasks=["depth"] if teachers else []).dataset("train")
    for sample in (samples[0], samples[1]):
        hidden = ~seen[sample["id"]] | tripod | (np.arange(32)[:, None] < 8)
        assert np.array_equal(sample["ignored"], hidden)
        assert not teachers or np.array_equal(sample["depth"] == 0, hidden)


def test_shrinking_covers_what_is_covered_in_part():
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[0, 5, 9] = True
    assert shrink_masks(mask, 8, 16).nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("names", [[], ["sky", "sky"], ["../x"], ["merged"]])
def test_names_are_plain_words(names):
    with pytest.raises(InputError, match="plain words"):
        GroundedMasker(names)


def test_the_command_line_masks_and_the_data_module_reads(networks, tmp_path, monkeypatch, capsys):
    """Masks from words without labels; then a panorama with too little left unmasked."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (48, 96, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    options = {"class_path": "GroundedMasker", "init_args": {**networks, "names": ["sky", "watermark"]}}
    options["init_args"] |= {"box_threshold": 0.0, "text_threshold": 0.0}
    plain = {"height": 32, "width": 64, "num_workers": 0, "trainer": {"accelerator": "cpu"}, "min_valid": 0}
    Path("masks.yaml").write_text(yaml.safe_dump(plain | {"masker": options}))
    assert main(["label", "photos", "--config", "masks.yaml", "--out", "out"]) == 0
    for name in ("sky", "watermark", "merged"):
        assert Image.open(f"out/masks/a/{name}.png").size == (64, 32)
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["settings"]["masker"]["options"]["names"] == ["sky", "watermark"]
    assert manifest["encoding"]["masks"]["unit"].startswith("255 = masked")
    assert manifest["settings"]["masker"]["detector"]["sha256"]
    data = PseudoLabelDataModule("out", height=32, width=64, tasks=[], batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch["ignored"].dtype == torch.bool and batch["ignored"].any()
    stored = np.array(Image.open(f"out/masks/{batch['id'][0]}/merged.png")) > 0
    assert torch.equal(batch["ignored"][0], torch.from_numpy(stored))
    again = ["label", "photos", "--config", "masks.yaml", "--out", "none", "--min-valid=1"]
    capsys.readouterr()
    assert main(again) == 0
    assert "left out, for example" in capsys.readouterr().out
    assert not list(Path("none").glob("img/*"))


def test_words_on_the_command_line_build_the_published_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    class Asked(GroundedMasker):
        def __init__(self, names):
            asked.append(tuple(names))
            raise InputError("asked")

    monkeypatch.setattr("mtpano_zoo.labeling.run.GroundedMasker", Asked)
    Path("photos").mkdir()
    Image.fromarray(np.zeros((48, 96, 3), np.uint8)).save("photos/a.png")
    assert main(["label", "photos", "--mask", "sky", "watermark", "--out", "out"]) != 0
    assert asked == [("sky", "watermark")]
    assert "asked" in capsys.readouterr().err
