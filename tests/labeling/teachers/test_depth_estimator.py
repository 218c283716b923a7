import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.testing import assert_close

from mtpano_zoo.labeling.teachers.base import ViewImages
from mtpano_zoo.labeling.teachers.depth_estimator import KINDS, DepthEstimator
from mtpano_zoo.labeling.views import Views

STAGES = ("stage1", "stage2", "stage3", "stage4")


def dinov2(size=56, patch=14, **options):
    return transformers.Dinov2Config(
        image_size=size,
        patch_size=patch,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        **options,
    )


def depth_anything(kind="relative", max_depth=1):
    config = transformers.DepthAnythingConfig(
        backbone_config=dinov2(out_features=list(STAGES), reshape_hidden_states=False),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=max_depth,
    )
    size = {"height": 56, "width": 56}
    processor = transformers.DPTImageProcessor(size=size, ensure_multiple_of=14, keep_aspect_ratio=True)
    return transformers.DepthAnythingForDepthEstimation(config), processor


def dpt(backbone=None, processor=None):
    own = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.DPTConfig(
        image_size=64,
        patch_size=16 if backbone is None else 14,
        backbone_config=backbone,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
        use_auxiliary_head=False,
        **own,
    )
    processor = processor or transformers.DPTImageProcessor(size={"height": 64, "width": 64})
    return transformers.DPTForDepthEstimation(config), processor


def dpt_on_dinov2():
    processor = transformers.DPTImageProcessor(do_resize=False, do_pad=True, size_divisor=14)
    return dpt(dinov2(out_features=list(STAGES), reshape_hidden_states=False), processor)


def depth_pro():
    encoder = {name: dinov2(16, 2) for name in ("image_model_config", "patch_model_config", "fov_model_config")}
    config = transformers.DepthProConfig(
        patch_size=16,
        fusion_hidden_size=8,
        intermediate_hook_ids=[2, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[8, 8],
        use_fov_model=True,
        **encoder,
    )
    processor = transformers.DepthProImageProcessor(size={"height": 32, "width": 32})
    return transformers.DepthProForDepthEstimation(config), processor


def zoedepth():
    backbone = transformers.BeitConfig(
        image_size=64,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 4, "min_depth": 0.001, "max_depth": 10.0}],
    )
    processor = transformers.ZoeDepthImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32)
    return transformers.ZoeDepthForDepthEstimation(config), processor


def glpn():
    config = transformers.GLPNConfig(
        num_encoder_blocks=4,
        depths=[1] * 4,
        sr_ratios=[1] * 4,
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2] * 4,
        decoder_hidden_size=8,
    )
    return transformers.GLPNForDepthEstimation(config), transformers.GLPNImageProcessor(size_divisor=32)


ARCHITECTURES = {
    "relative": (depth_anything, "disparity"),
    "metric": (lambda: depth_anything("metric", 20), "metric"),
    "dpt": (dpt, "disparity"),
    "depth_pro": (depth_pro, "metric"),
    "zoedepth": (zoedepth, "metric"),
    "glpn": (glpn, "metric"),
    "dpt_on_dinov2": (dpt_on_dinov2, None),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a random network of an architecture once; return its folder, the network and its image processor."""
    made = {}

    def save(name):
        if name not in made:
            torch.manual_seed(3)
            network, processor = ARCHITECTURES[name][0]()
            # Random initial weights see the same everywhere; these tell the parts of an image apart.
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=1 / parameter[0].numel() ** 0.5)
            folder = tmp_path_factory.mktemp(name)
            network.eval().save_pretrained(folder)
            processor.save_pretrained(folder)
            made[name] = folder, network, processor
        return made[name]

    return save


def by_the_library(name, network, processor, pictures, height, width):
    """The raw output and the depth maps that the library's own example gives for pictures."""
    with torch.no_grad():
        output = network(**processor(images=pictures, return_tensors="pt"))
    sizes = [(height, width)] * len(pictures)
    more = {"source_sizes": sizes} if name == "zoedepth" else {}
    results = processor.post_process_depth_estimation(output, target_sizes=sizes, **more)
    return output, torch.stack([result["predicted_depth"] for result in results])


def correlation(a, b):
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())).double())[0, 1]


@pytest.mark.parametrize("name", ["relative", "metric", "dpt", "zoedepth", "glpn"])
@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 112)])
def test_agrees_with_the_library_on_pictures(name, size, saved, some_views, as_pictures):
    folder, network, processor = saved(name)
    seen = some_views(3, *size)
    teacher = DepthEstimator(str(folder), batch_size=2)
    labels = teacher(seen)
    assert teacher.depth_kind == labels.depth_kind == ARCHITECTURES[name][1] and not labels.along_ray
    assert labels.depth.shape == (3, *size) and labels.probabilities is None and labels.normals is None
    _, expected = by_the_library(name, network, processor, as_pictures(seen), *size)
    spread = expected.std()
    assert spread > 0.01 * expected.abs().mean()
    # The library enlarges by cubic interpolation, which overshoots at edges.
    assert (labels.depth - expected).abs().mean() < 0.1 * spread and correlation(labels.depth, expected) > 0.99


@pytest.mark.parametrize(("name", "side"), [("relative", 56), ("metric", 56), ("dpt", 64), ("glpn", 64)])
def test_is_the_output_of_the_network_where_nothing_is_resized(name, side, saved, some_views, as_pictures):
    folder, network, processor = saved(name)
    seen = some_views(3, side, side)
    output, _ = by_the_library(name, network, processor, as_pictures(seen), side, side)
    assert_close(DepthEstimator(str(folder))(seen).depth, output.predicted_depth, rtol=1e-4, atol=1e-5)


def test_depth_pro_takes_the_focal_length_of_the_view(saved, some_views, as_pictures):
    folder, network, processor = saved("depth_pro")
    seen = some_views(3, 48, 64, fov=70.0)
    teacher = DepthEstimator(str(folder), batch_size=2)
    assert teacher.depth_kind == "metric" and teacher.network.fov_model is None
    depth = teacher(seen).depth
    # The library scales by a field of view that it guesses: give it ours.
    with torch.no_grad():
        output = network(**processor(images=as_pictures(seen), return_tensors="pt"))
    output.field_of_view = torch.full((3,), 70.0)
    results = processor.post_process_depth_estimation(output, target_sizes=[(48, 64)] * 3)
    expected = torch.stack([result["predicted_depth"] for result in results])
    assert expected.min() > 1e-3 and expected.std() > 0.01 * expected.mean()
    assert_close(depth, expected, rtol=0.02, atol=0)
    # What fills the same picture through a lens of twice the focal length is twice as far away.
    longer = seen.views.intrinsics.clone()
    longer[1:, :2, :2] *= 2
    views = Views(seen.views.rotations, longer, 48, 64)
    farther = teacher(ViewImages(seen.images, views)).depth
    limited = farther >= 9999  # metres: nothing is farther for this network
    factor = torch.tensor([1.0, 2.0, 2.0])[:, None, None]
    assert_close(farther[~limited], (factor * depth)[~limited])
    assert (~limited).float().mean() > 0.5


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_an_overflow_of_depth_pro_is_no_near_object(value, saved, some_views, monkeypatch):
    teacher = DepthEstimator(str(saved("depth_pro")[0]))
    output = type("Output", (), {"predicted_depth": torch.full((3, 48, 48), value)})
    monkeypatch.setattr(teacher, "run", lambda inputs, images: output)
    assert teacher(some_views(3, 48, 48)).depth.isnan().all()


def test_a_border_is_not_shown_to_the_network(saved, some_views):
    folder, network, processor = saved("dpt_on_dinov2")
    seen = some_views(3, 60, 66)
    assert processor(images=list(seen.images), do_rescale=False, return_tensors="pt").pixel_values[..., 0].std() == 0
    stretched = F.interpolate(seen.images, size=(70, 70), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        output = network((stretched - mean) / std).predicted_depth[:, None]
    expected = F.interpolate(output, size=(60, 66), mode="bilinear", align_corners=False)[:, 0]
    assert_close(DepthEstimator(str(folder), kind="metric")(seen).depth, expected, rtol=1e-3, atol=1e-3)


def test_the_kind_is_known_or_must_be_given(saved, some_views):
    assert all(ARCHITECTURES[name][1] == KINDS[name] for name in ("dpt", "depth_pro", "zoedepth", "glpn"))
    folder = str(saved("dpt_on_dinov2")[0])
    with pytest.raises(ValueError, match="a dpt on dinov2, is unknown: set kind"):
        DepthEstimator(folder)
    assert DepthEstimator(folder, kind="metric")(some_views()).depth_kind == "metric"
    teacher = DepthEstimator(str(saved("relative")[0]), kind="scale_invariant")
    assert teacher.depth_kind == teacher.provenance["options"]["kind"] == "scale_invariant"
    with pytest.raises(ValueError, match="kind must be one of"):
        DepthEstimator(folder, kind="inverse")


def test_unknown_architectures_need_a_kind(tmp_path):
    config = transformers.PromptDepthAnythingConfig(
        backbone_config=dinov2(out_features=list(STAGES), reshape_hidden_states=False),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    transformers.PromptDepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    transformers.PromptDepthAnythingImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="a prompt_depth_anything, is unknown: set kind, one of metric, scale_invariant, disp"
    ):
        DepthEstimator(str(tmp_path))


def test_batches_size_and_precision(saved, some_views):
    folder = str(saved("relative")[0])
    seen = some_views()
    one, all_at_once = (DepthEstimator(folder, batch_size=size)(seen).depth for size in (1, 8))
    assert_close(one, all_at_once)
    teacher = DepthEstimator(folder, size=84)
    assert teacher.prepare(seen.images)["pixel_values"].shape == (3, 3, 84, 84)
    assert teacher(seen).depth.shape == (3, 96, 96)
    rough = DepthEstimator(folder, precision="bfloat16")(seen).depth
    assert rough.dtype == torch.float32 and not torch.equal(rough, all_at_once)
    assert (rough - all_at_once).abs().mean() < 0.1 * all_at_once.std()
