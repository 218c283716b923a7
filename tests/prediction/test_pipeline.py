import numpy as np
import pytest
import torch
from analytic import CLASSES, Analytic, angles, photo
from PIL import Image
from torch import nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.prediction import output_paths, predict
from mtpano_zoo.sphere import erp_rays

# What comes out


def test_maps_are_exact_where_nothing_is_resized():
    image = photo()
    prediction = predict(Analytic(), image)
    assert np.array_equal(prediction.image, image)
    assert prediction.semseg.dtype == np.uint8 and np.array_equal(prediction.semseg, image.argmax(-1))
    assert prediction.depth.dtype == np.float32
    np.testing.assert_allclose(prediction.depth, 1 + 4 * image.mean(-1) / 255, rtol=1e-6)
    assert prediction.normals.dtype == np.float32 and prediction.normals.shape == (32, 64, 3)
    np.testing.assert_allclose(prediction.normals, -erp_rays(32, 64).numpy(), atol=1e-6)
    assert prediction.classes == CLASSES and prediction.palette.shape == (3, 3)
    assert repr(prediction) == "Prediction(64 x 32: semseg, depth, normals)"


@pytest.mark.parametrize(("height", "width"), [(64, 128), (591, 1183), (48, 96), (512, 1024)])
def test_maps_return_to_the_size_of_the_source(height, width):
    image = photo(height, width)
    prediction = predict(Analytic(input_size=(64, 128)), image)
    depth = 1 + 4 * image.mean(-1) / 255
    assert np.abs(prediction.depth - depth).max() < 0.03
    strongest = np.sort(image.astype(int), -1)
    clear = strongest[..., 2] - strongest[..., 1] > 6
    assert np.array_equal(prediction.semseg[clear], image.argmax(-1)[clear])
    # Nothing is known beyond the network's last row, 1.4 degrees from the pole; elsewhere, seam included, it is close.
    error = angles(prediction.normals, -erp_rays(height, width).numpy())
    assert error.max() < 1.5 and error[height // 8 : -height // 8].max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(prediction.normals, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (50, 100), (591, 1182)])
def test_there_is_no_seam(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    network = Analytic(("semseg", "depth"))
    straight, turned = predict(network, image), predict(network, np.roll(image, width // 2, 1))
    assert np.array_equal(turned.semseg, np.roll(straight.semseg, width // 2, 1))
    assert np.array_equal(turned.depth, np.roll(straight.depth, width // 2, 1))


def test_a_distance_that_is_not_valid_is_none():
    class WithSky(Analytic):
        def forward(self, image):
            bright = image.mean(1, keepdim=True)
            return super().forward(image) | {"valid": 0.5 - bright, "disparity": 1 / (1 + 4 * bright)}

    prediction = predict(WithSky(("depth", "valid", "disparity")), photo())
    assert prediction.valid.dtype == bool and 0.2 < prediction.valid.mean() < 0.8
    assert (prediction.depth[~prediction.valid] == 0).all() and (prediction.depth[prediction.valid] >= 1).all()
    assert prediction.disparity.shape == (32, 64) and (prediction.disparity > 0).all()
    assert prediction.tasks == ("depth", "valid", "disparity") and prediction.semseg is None


@pytest.mark.parametrize("level", [False, True])
def test_what_is_not_valid_has_no_normal_unless_it_may_be_only_too_far(level, tmp_path, monkeypatch):
    class WithSky(Analytic):
        def forward(self, image):
            return super().forward(image) | {"valid": 0.5 - image.mean(1, keepdim=True)}

    monkeypatch.setattr("mtpano_zoo.prediction.attitude.estimate_up", lambda *_: torch.tensor([0.3, -0.9, 0.3]))
    network = WithSky(("depth", "normals", "valid"))
    prediction = predict(network, photo(), level=level)
    lengths = np.linalg.norm(prediction.normals, axis=-1)
    assert 0.2 < prediction.valid.mean() < 0.8
    np.testing.assert_allclose(lengths, prediction.valid, atol=1e-5)
    assert prediction.point_cloud()[0].shape == (prediction.valid.sum(), 3)
    files = prediction.save(tmp_path, "a")
    stored = np.asarray(Image.open(files["normals"]))
    assert ((stored == 128).all(-1) == ~prediction.valid).all()
    prediction.export(tmp_path / "a.ply")
    network.ranges = (10.0,)
    assert np.linalg.norm(predict(network, photo()).normals, axis=-1).min() > 0.99


def test_disparity_is_never_written_as_metres(tmp_path):
    class Relative(Analytic):
        def forward(self, image):
            return {"disparity": image.mean(1, keepdim=True)}

    files = predict(Relative(("disparity",)), photo()).save(tmp_path)
    assert {path.name for path in files.values()} == {"panorama_relative_disparity.npy", "panorama_panel.png"}


@pytest.mark.parametrize(("kind", "tolerance"), [
    (torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6),
])  # fmt: skip
def test_a_network_of_other_precision_takes_images_of_its_own(kind, tolerance):
    class Convolution(Analytic):
        def __init__(self):
            super().__init__(("depth",))
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, image):
            self.types.append(image.dtype)
            return {"depth": self.layer(image).abs() + 1}

    network = Convolution()
    network.types = []
    exact = predict(network, photo()).depth
    converted = predict(network.to(kind), photo())
    assert converted.depth.dtype == np.float32 and network.types == [torch.float32, kind]
    np.testing.assert_allclose(converted.depth, exact, rtol=tolerance)
    if kind != torch.bfloat16:
        with pytest.raises(InputError, match=r"weights are float\d\d, which does not work with bfloat16: .*float\(\)"):
            predict(network, photo(), precision="bfloat16")
    else:
        np.testing.assert_array_equal(predict(network, photo(), precision="bfloat16").depth, converted.depth)


def test_halved_pd_bridgenet_predicts(tiny_network):
    network = tiny_network().eval()
    whole, half = predict(network, photo()), predict(network.half(), photo())
    np.testing.assert_allclose(half.depth, whole.depth, rtol=0.02, atol=0.01)


# Options


@pytest.mark.parametrize("tasks", [("semseg",), ("depth",), ("normals",), ("depth", "normals")])
def test_tasks_that_the_network_lacks_are_none(tasks, tmp_path):
    prediction = predict(Analytic(tasks), photo())
    assert prediction.tasks == tasks
    for task in {"semseg", "depth", "normals"} - set(tasks):
        assert getattr(prediction, task) is None
    paths = prediction.save(tmp_path)
    assert set(paths) == set(output_paths(tmp_path, "panorama", tasks))
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_depth_is_positive_or_none():
    class Wild(Analytic):
        def forward(self, image):
            depth = torch.full_like(image[:, :1], -2.0)
            depth[..., 10, 20], depth[..., 11, 40], depth[..., 12, 3] = torch.nan, torch.inf, 7
            normals = torch.zeros_like(image)
            normals[:, 1] = -5
            normals[..., 10, 20] = torch.nan
            normals[..., 11, 40] = 0
            return {"depth": depth, "normals": normals}

    prediction = predict(Wild(("depth", "normals")), photo())
    assert prediction.depth[10, 20] == prediction.depth[11, 40] == 0
    assert prediction.depth[12, 3] == 7 and prediction.depth[0, 0] == np.float32(0.001)
    assert prediction.normals[10, 20].tolist() == prediction.normals[11, 40].tolist() == [0, 0, 0]
    assert prediction.normals[0, 0].tolist() == [0, -1, 0]


def test_palette_of_the_network_is_used():
    network = Analytic()
    network.palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    assert predict(network, photo()).palette.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_many_classes_do_not_fit_a_byte(tmp_path):
    class Many(Analytic):
        def forward(self, image):
            logits = torch.zeros(len(image), 300, *image.shape[-2:])
            logits[:, 299], logits[:, 255, :5] = 1, 2
            return {"semseg": logits}

    network = Many(("semseg",))
    network.classes = tuple(map(str, range(300)))
    prediction = predict(network, photo())
    assert prediction.semseg.dtype == np.int64 and prediction.semseg[20, 20] == 299 and prediction.semseg[0, 0] == 255
    with pytest.raises(ValueError, match="at most 256 colours"):
        prediction.save(tmp_path)


# What the network gets, and networks of your own


def test_size_of_the_network_input():
    network = Analytic()
    prediction = predict(network, photo(), size=(16, 32))
    assert network.calls[0][0] == (1, 3, 16, 32) and prediction.depth.shape == (32, 64)
    with pytest.raises(ValueError, match=r"size=\(height, width\), is 32 x 64"):
        predict(network, photo(), size=(64, 32))
    assert predict(network, photo(), size=np.array([16, 32])).depth.shape == (32, 64)
    for size in (64, "large", (64,), (16, 32, 3), ()):
        with pytest.raises(InputError, match="size is height and width in pixels"):
            predict(network, photo(), size=size)


def test_modes_are_restored_even_after_a_failure():
    network = Analytic()
    network.add_module("frozen", nn.Dropout().eval())
    network.add_module("trained", nn.Dropout())
    predict(network, photo())
    assert network.calls[0][1:] == (False, True)  # evaluation, inference mode
    assert network.training and network.trained.training and not network.frozen.training

    def fail(*_):
        raise RuntimeError("broken")

    network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        predict(network, photo())
    assert network.training and not network.frozen.training


def test_training_goes_on_after_a_prediction():
    network = Analytic()
    predict(network, photo())
    network(torch.rand(1, 3, 32, 64))["depth"].sum().backward()
    assert network.scale.grad is not None


def test_bfloat16_runs_the_network_under_autocast():
    class Convolution(Analytic):
        def __init__(self):
            super().__init__(("depth",))
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, image):
            self.dtype = self.layer(image).dtype
            return {"depth": self.layer(image).abs() + 1}

    network = Convolution()
    assert predict(network, photo(), precision="bfloat16").depth.dtype == np.float32
    assert network.dtype == torch.bfloat16
    exact, coarse = predict(network, photo()).depth, predict(network, photo(), precision="bfloat16").depth
    assert network.dtype == torch.bfloat16
    np.testing.assert_allclose(coarse, exact, rtol=0.02)
    with pytest.raises(ValueError, match="float32 or bfloat16, not float16"):
        predict(network, photo(), precision="float16")


def test_an_option_that_does_not_exist_is_refused_for_every_source():
    with pytest.raises(TypeError, match="unexpected keyword argument 'levl'"):
        predict(Analytic(), photo(), levl=True)


def test_the_default_type_of_torch_changes_nothing():
    expected = predict(Analytic(input_size=(16, 32)), photo(), blend_seam=True)
    torch.set_default_dtype(torch.float64)
    try:
        prediction = predict(Analytic(input_size=(16, 32)), photo(), blend_seam=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for task in ("semseg", "depth", "normals"):
        found, wanted = prediction.maps[task], expected.maps[task]
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_module_that_is_no_network_of_ours_is_named():
    with pytest.raises(ValueError, match="Linear lacks the attribute `input_size`"):
        predict(nn.Linear(1, 1), photo())


@pytest.mark.parametrize(("output", "shown"), [
    (lambda image: {"dept": image[:, :1]}, r"with depth \(B, 1, H, W\), but returned nothing"),
    (lambda image: image[:, :1], "of maps by task, but returned Tensor"),
    (lambda image: {"depth": image[:, 0]}, r"with depth \(B, 1, H, W\), but returned a map \(1, 32, 64\)"),
    (lambda image: {"depth": image}, r"with depth \(B, 1, H, W\), but returned a map \(1, 3, 32, 64\)"),
])  # fmt: skip
def test_a_network_of_your_own_is_told_what_to_return(output, shown):
    class Own(Analytic):
        def forward(self, image):
            return output(image)

    with pytest.raises(InputError, match=f"Own must return a dict {shown}"):
        predict(Own(("depth",)), photo())
