"""Folders of predictions are read in any stated unit, and what does not fit is one sentence."""

import numpy as np
import pytest
import torch
from evaluated import depths, planted, predictor, scored, write_exr
from fake_exr import exr
from PIL import Image
from torch import nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.data_sets import open_data
from mtpano_zoo.evaluation.predictors import FolderPredictor, FunctionPredictor, NetworkPredictor
from mtpano_zoo.evaluation.runner import evaluate
from mtpano_zoo.image_io import encode_depth, encode_normals, write_npy, write_png
from mtpano_zoo.manifest import write_manifest
from mtpano_zoo.metrics.disparity import align_affine
from mtpano_zoo.prediction.folder import manifest_of
from mtpano_zoo.sphere import erp_rays

H, W = 16, 32


@pytest.mark.parametrize(
    ("change", "ending", "unit", "kind"),
    [
        (lambda x: x, ".npy", None, "ray"),
        (lambda x: (1000 * x).astype(np.float32), ".npy", "mm", "ray"),
        (encode_depth, ".png", "mm", "ray"),
        (lambda x: (x * 4000).round().astype(np.uint16), ".png", "0.00025", "ray"),
        (lambda x: x * erp_rays(*x.shape).abs().amax(-1).numpy(), ".npy", None, "z"),
        (lambda x: 3 / x + 0.2, ".npy", None, "disparity"),
        (lambda x: 100 * x * erp_rays(*x.shape).abs().amax(-1).numpy(), ".exr", "cm", "z"),
    ],
)
def test_a_folder_in_any_stated_unit_is_right(change, ending, unit, kind, homes, tmp_path):
    data = open_data(homes)
    found = scored([FolderPredictor(depths(data, tmp_path / "p", change, ending), unit, kind)], data, tmp_path / "out")
    model = found["models"]["p"]
    assert model["remarks"] == []
    assert model["measures"]["scale/depth"]["value"] == pytest.approx(1, abs=0.005)
    assert model["measures"]["edges/depth"]["value"] > 0.95
    assert any(name.startswith("yaw and tilt") for name in model["left_out"])
    score = "disparity/AbsRel/affine_aligned" if kind == "disparity" else "depth/AbsRel"
    assert model["scores"][score] < 0.01


@pytest.mark.parametrize(("folder", "kind"), [("p", "disparity"), ("p/depth", "disparity"), ("p/disparity", "ray")])
@pytest.mark.parametrize(
    ("change", "ending"),
    [
        (lambda x: 2 * x - 5, ".npy"),  # some are negative
        (lambda x: 2 * x - 5, ".exr"),
        (lambda x: (65535 * (x - x.min()) / (x.max() - x.min())).round().astype(np.uint16), ".png"),
    ],
)
def test_inverse_distances_are_read_up_to_scale_and_shift(change, ending, folder, kind, homes, tmp_path):
    data = open_data(homes)
    (tmp_path / "p").mkdir()
    depths(data, tmp_path / folder, lambda x: change(1 / x), ending)
    sample = data.samples[0]
    read = FolderPredictor(tmp_path / "p", kind=kind)(sample["image"], sample["id"])["disparity"]
    inverse = 1 / sample["depth"]
    fitted = align_affine(read[None], inverse[None], torch.ones(1, H, W).double())[0]
    np.testing.assert_allclose(fitted, inverse, rtol=1e-3)


@pytest.mark.parametrize("name", ["disparity/a.npy", "disparity/a.exr", "a_relative_disparity.npy"])
def test_only_inverse_distances_that_are_not_finite_are_holes(name, tmp_path):
    """Except in files of `mtpano run`, where they are positive, and 0 is no value."""
    values = np.linspace(-1, 1, H * W, dtype=np.float32).reshape(H, W)
    values[2, :3] = np.nan, np.inf, 0
    (tmp_path / "disparity").mkdir()
    write_npy(tmp_path / name, values) if name.endswith("npy") else write_exr(tmp_path / name, values)
    found = FolderPredictor(tmp_path)(torch.zeros(3, H, W), "a")["disparity"].numpy()
    holes = ~np.isfinite(values) if "/" in name else ~(np.isfinite(values) & (values > 0))
    assert np.array_equal(np.isnan(found), holes) and np.array_equal(found[~holes], values[~holes])


def test_a_network_gives_no_number_where_it_has_no_inverse_distance():
    class Torn(torch.nn.Module):
        tasks, input_size = ("disparity",), (H, W)

        def forward(self, image):
            disparity = image[:, :1] - 0.5
            disparity[..., 3, 5:7] = torch.nan
            return {"disparity": disparity}

    found = NetworkPredictor(Torn(), "torn")(torch.rand(3, H, W), "a")["disparity"]
    assert found.isnan().nonzero().tolist() == [[3, 5], [3, 6]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: 1000 * x, "they look like millimetres"),
        (lambda x: 4000 * x, "quarters of a millimetre"),
        (lambda x: x / 1000, "metres that were taken for millimetres"),
        (lambda x: x[:, ::-1].copy(), "mirrored left to right"),
        (lambda x: x[::-1].copy(), "upside down"),
        (lambda x: np.roll(x, W // 2, 1), "half a turn"),
        (lambda x: 1 / x, "state --kind disparity"),
        (lambda x: x * erp_rays(*x.shape).abs().amax(-1).numpy(), "state --kind z"),
    ],
)
def test_a_folder_that_is_not_as_stated_is_refused(change, sentence, homes, tmp_path):
    data = open_data(homes)
    wrong = FolderPredictor(depths(data, tmp_path / "p", change))
    with pytest.raises(InputError, match=sentence):
        evaluate([wrong], data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (scored,) = evaluate([wrong], data, tmp_path / "out", force=True)
    assert any(sentence in remark for remark in scored.remarks)


def test_what_mtpano_run_writes_is_read(homes, tmp_path):
    data = open_data(homes)
    write_manifest(tmp_path, manifest_of("mtpano run", {"classes": ["wall", "floor"]}, {}))
    for i in range(3):
        sample = data.samples[i]
        write_png(tmp_path / f"{sample['id']}_depth.png", encode_depth(sample["depth"].numpy()))
        write_png(tmp_path / f"{sample['id']}_normals.png", encode_normals(sample["normals"].movedim(0, -1).numpy()))
        Image.fromarray(sample["semseg"].numpy().astype(np.uint8)).save(tmp_path / f"{sample['id']}_semseg.png")
    folder = FolderPredictor(tmp_path)
    assert folder.classes == ("wall", "floor")  # the numbers are theirs, not those of the labels
    maps = folder(data.samples[0]["image"], data.samples.name(0))
    assert (maps["depth"] - data.samples[0]["depth"]).abs().max() < 1e-3
    assert (maps["normals"] - data.samples[0]["normals"]).abs().max() < 0.02
    assert torch.equal(maps["semseg"], data.samples[0]["semseg"])


def test_an_exr_of_normals_and_an_npy_of_classes(homes, tmp_path):
    data = open_data(homes)
    sample, name = data.samples[0], data.samples.name(0)
    for task in ("depth", "normals", "semseg"):
        (tmp_path / task).mkdir()
    far = np.where(sample["depth"].numpy() > 3, 1e10, sample["depth"].numpy()).astype(np.float32)
    (tmp_path / "depth" / f"{name}.exr").write_bytes(exr(R=far, G=far, B=far))
    (tmp_path / "normals" / f"{name}.exr").write_bytes(exr(**dict(zip("RGB", sample["normals"].numpy(), strict=True))))
    write_npy(tmp_path / "semseg" / f"{name}.npy", sample["semseg"].numpy().astype(np.int32))
    maps = FolderPredictor(tmp_path)(sample["image"], name)
    assert torch.equal(maps["depth"], torch.where(sample["depth"] > 3, 0, sample["depth"]))
    assert (maps["normals"] - sample["normals"]).abs().max() < 1e-6
    assert torch.equal(maps["semseg"], sample["semseg"])
    for task, values, sentence in (
        ("semseg", {"Y": far}, "write a PNG or NPY"),
        ("normals", {"Y": far}, "normals need three"),
        ("depth", {"R": far, "G": far, "B": -far}, "its channels differ"),
    ):
        for path in (tmp_path / task).iterdir():
            path.unlink()
        (tmp_path / task / f"{name}.exr").write_bytes(exr(**values))
        with pytest.raises(InputError, match=sentence):
            FolderPredictor(tmp_path)(sample["image"], name)
        (tmp_path / task / f"{name}.exr").unlink()


def test_files_that_do_not_fit_are_named(homes, tmp_path):
    data = open_data(homes)
    image, name = data.samples[0]["image"], data.samples.name(0)
    with pytest.raises(FileNotFoundError, match=f"no prediction for {name}"):
        FolderPredictor(tmp_path)(image, name)
    write_npy(tmp_path / f"{name}.npy", np.ones((2 * H, 2 * W), np.float32))
    with pytest.raises(InputError, match=f"{name}.npy is 64 x 32 pixels.*pass --height 32"):
        FolderPredictor(tmp_path)(image, name)
    write_npy(tmp_path / f"{name}.npy", np.ones((H, H), np.float32))
    with pytest.raises(InputError, match="twice as wide as high"):
        FolderPredictor(tmp_path)(image, name)
    (tmp_path / f"{name}.npy").unlink()
    write_png(tmp_path / f"{name}.png", np.ones((H, W), np.uint16))
    with pytest.raises(InputError, match="does not state its unit"):
        FolderPredictor(tmp_path)(image, name)
    with pytest.raises(InputError, match="--unit is m, cm, mm"):
        FolderPredictor(tmp_path, "inch")
    with pytest.raises(InputError, match="not a task"):
        FunctionPredictor(lambda x: {"dept": x[0]}, "f")(image, name)
    with pytest.raises(InputError, match="for an image of 16 x 32"):
        FunctionPredictor(lambda x: {"depth": x[0, :4]}, "f")(image, name)
    with pytest.raises(InputError, match="no two with the same name"):
        evaluate([predictor(), predictor()], planted(), tmp_path / "out")


def test_what_is_missing_is_said(homes, tmp_path):
    data = open_data(homes, height=H)
    folder = depths(data, tmp_path / "pred")
    (folder / f"{data.samples.name(0)}.npy").unlink()
    (folder / "normals").mkdir()
    for i in range(len(data.samples)):
        normals = data.samples[i]["normals"].movedim(0, -1).numpy()
        write_npy(folder / "normals" / f"{data.samples.name(i)}.npy", normals)
    (judged,) = evaluate([FolderPredictor(folder)], data, tmp_path / "out")
    assert judged.remarks == ["no prediction of depth for 1 of the labelled panoramas"]


def of(function, classes=()):
    return FunctionPredictor(function, "mine", classes)(torch.rand(3, H, W, generator=torch.Generator()), "a")


def test_functions_may_change_their_input_and_reuse_their_output():
    image, buffer = torch.rand(3, H, W), torch.empty(H, W)
    before = image.clone()
    mine = FunctionPredictor(lambda x: {"depth": torch.sum(x.sub_(0.5), 0, out=buffer)}, "mine")
    first = mine(image, "a")["depth"]
    assert torch.equal(image, before)
    mine(image + 1, "b")
    assert torch.equal(first, (before - 0.5).sum(0))


def test_classes_and_normals_of_functions():
    numbers = torch.arange(H * W).view(H, W) % 3
    logits = nn.functional.one_hot(numbers, 3).movedim(-1, 0).float()
    assert torch.equal(of(lambda _: {"semseg": numbers[None]})["semseg"], numbers)
    logits[1, 0] = torch.nan
    found = of(lambda _: {"semseg": logits}, ("a", "b", "c"))["semseg"]
    assert (found[0] == -1).all() and torch.equal(found[1:], numbers[1:])
    with pytest.raises(InputError, match="mine returns 3 logits, but names 2 classes"):
        of(lambda _: {"semseg": logits}, ("a", "b"))
    short = of(lambda _: {"normals": torch.full((3, H, W), 0.1)})["normals"]
    assert torch.allclose(short.norm(dim=0), torch.ones(H, W))
