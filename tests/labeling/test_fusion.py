import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.labeling import class_fusion
from mtpano_zoo.labeling.back_projection import cut, footprints
from mtpano_zoo.labeling.fusion import fuse
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import CubeViews, IcosahedronViews, RandomViews, Views
from mtpano_zoo.sphere import erp_rays, from_perspective, perspective_rays, rotation_matrix, z_to_distance

HEIGHT, WIDTH = 32, 64
VIEWS = CubeViews(110, 24, turn=45)("a")


def room(index, height=128):
    return RoomsDataset("test", 8, height, 2 * height)[index]


def told(sample, views, **defects):
    return OracleTeacher(**defects)(ViewImages(cut(sample["image"], views), views, sample))


def ball(views, radius=2.0, wrong=None, seed=0):
    """Labels of a sphere around the camera, cut into three classes by direction."""
    rays = perspective_rays(views.height, views.width, intrinsics=views.intrinsics, normalize=False)
    depth = (radius / rays.norm(dim=-1)) * (1 if wrong is None else wrong[:, None, None])
    normals = -(rays / rays.norm(dim=-1, keepdim=True)).permute(0, 3, 1, 2)
    random = torch.rand(len(views), 3, views.height, views.width, generator=torch.Generator().manual_seed(seed))
    return ViewLabels(random.softmax(1), depth, normals=normals)


def part(labels, index):
    """The labels of some views."""
    return ViewLabels(labels.probabilities[index], labels.depth[index], normals=labels.normals[index])


def some(views, index):
    return Views(views.rotations[index], views.intrinsics[index], views.height, views.width)


def plain_average(depth, views, height, width):
    distance = z_to_distance(depth, views.intrinsics)[None, :, None]
    maps, valid = from_perspective(distance, views.rotations, height, width, intrinsics=views.intrinsics, mode="depth")
    return maps[0, :, 0].sum(0) / valid[0].sum(0).clamp(min=1)


def relative_error(depth, truth, align):
    known = depth > 0
    ratio = depth[known] / truth[known]
    return float((ratio / (ratio.median() if align else 1) - 1).abs().mean())


def views_at_every_pixel(views):
    """How many views see a pixel, counted by their weights."""
    count = torch.zeros(HEIGHT * WIDTH)
    for foot in footprints(views, HEIGHT, WIDTH):
        count.index_add_(0, foot.pixels, foot.weight)
    return count.view(HEIGHT, WIDTH)


def test_a_sphere_comes_back_exactly():
    merged = fuse([ball(VIEWS)], VIEWS, HEIGHT, WIDTH)
    assert float((merged.depth - 2).abs().mean()) < 0.004
    # Half a pixel at the border of a view has no neighbours to interpolate: its depth goes on.
    assert torch.allclose(merged.depth, torch.full((HEIGHT, WIDTH), 2.0), rtol=0.04)
    cosine = (merged.normals.permute(1, 2, 0) * -erp_rays(HEIGHT, WIDTH)).sum(-1)
    assert cosine.min() > math.cos(math.radians(1))
    seen = views_at_every_pixel(VIEWS)
    assert torch.allclose(merged.confidence["normals"], seen / (seen + 1), atol=1e-3)
    sure = torch.exp(-1 / (seen * (seen + 1)).sqrt())
    assert (merged.confidence["depth"] <= sure + 1e-4).all() and (merged.confidence["depth"] - sure).abs().mean() < 0.01
    for view in merged.views:
        assert torch.allclose(view.depth, torch.full_like(view.depth, 2), rtol=0.06)
        assert view.normals.shape == (len(view.pixels), 3) and view.semseg.dtype == torch.uint8


@pytest.mark.parametrize("index", range(4))
def test_distance_of_rooms_has_at_most_a_third_of_the_plain_averages_error(index):
    sample = room(index)
    views = RandomViews(32, size=128)(sample["id"])
    labels = told(sample, views, tasks=["depth"], scale=0.2, noise=0.05)
    plain = plain_average(labels.depth, views, 128, 256)
    merged = fuse([labels], views, 128, 256)
    assert relative_error(merged.depth, sample["depth"], True) <= relative_error(plain, sample["depth"], True) / 3
    # What no estimator can know is the mean of the views' errors: 20 % / sqrt(32) on average.
    assert relative_error(merged.depth, sample["depth"], False) < 3 * 0.2 / math.sqrt(32)


def test_no_border_of_a_view_shows():
    sample = room(1)
    views = RandomViews(32, size=128)(sample["id"])
    labels = told(sample, views, tasks=["depth"], scale=0.2)
    seen = torch.zeros(32, 128 * 256, dtype=torch.bool)
    for one, foot in zip(seen, footprints(views, 128, 256), strict=True):
        one[foot.pixels] = True
    seen = seen.view(32, 128, 256)
    border = (seen[..., 1:] != seen[..., :-1]).any(0)

    def jump(depth):
        error, smooth = (depth / sample["depth"]).log(), (sample["depth"].log().diff(dim=-1).abs() < 0.05)
        change = error.diff(dim=-1).abs()
        return float(change[border & smooth].mean()), float(change[~border & smooth].mean())

    at_borders, elsewhere = jump(fuse([labels], views, 128, 256).depth)
    plain_at_borders, _ = jump(plain_average(labels.depth, views, 128, 256))
    assert at_borders < 1.5 * elsewhere + 5e-4
    assert plain_at_borders > 10 * at_borders


def test_classes_are_at_least_as_good_as_in_the_best_view():
    sample = room(2)
    views = RandomViews(24, size=128)(sample["id"])
    labels = told(sample, views, tasks=["semseg"], wrong_classes=0.1, softness=0.3, bleed=2, stride=2)
    merged = fuse([labels], views, 128, 256)
    right = (merged.semseg == sample["semseg"]).flatten()
    alone = []
    for view in merged.views:
        own = (view.semseg == sample["semseg"].flatten()[view.pixels]).float().mean()
        alone.append((float(own), float(right[view.pixels].float().mean())))
    best, there = max(alone)
    assert there >= best
    # Seen from all sides, errors are rarer than in a view on average.
    assert (
        float(right[merged.semseg.flatten() != 255].float().mean()) > sum(own for own, _ in alone) / len(alone) + 0.02
    )


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("sky", [None, 1e-4, 0.02])
def test_disparity_of_a_street_whose_sky_is_almost_at_infinity(sky, metric):
    """Noise in the sky does not decide about the ground, nor do views of a single wall, which have any scale."""
    views, noise = RandomViews(20, size=24, seed=7)("street"), torch.Generator().manual_seed(0)
    half = torch.tensor([5.0, 1.6, 8.0])  # of a box around the camera
    rays = perspective_rays(24, 24, intrinsics=views.intrinsics, normalize=False) @ views.rotations.mT[:, None]
    inverse = (rays.abs() / half).amax(-1)
    above = torch.zeros_like(inverse, dtype=torch.bool) if sky is None else -rays[..., 1] > 0.5 * rays.norm(dim=-1)
    seen = inverse * (1 + 0.02 * torch.randn(inverse.shape, generator=noise))
    hazy = (sky or 0) * torch.randn(inverse.shape, generator=noise).relu()
    scale = torch.exp(torch.randn(len(views), 1, 1, generator=noise))
    labels = [ViewLabels(depth=scale * torch.where(above, hazy, seen), depth_kind="disparity")]
    if metric:
        labels.append(ViewLabels(depth=torch.where(above, torch.inf, 1 / inverse), depth_kind="metric"))
    depth = fuse(labels, views, HEIGHT, WIDTH, keep_views=False).depth
    truth = 1 / (erp_rays(HEIGHT, WIDTH).abs() / half).amax(-1)
    ground = erp_rays(HEIGHT, WIDTH)[..., 1] > -0.4
    assert relative_error(depth[ground], truth[ground], align=not metric) < 0.02
    assert metric or float(depth[ground].median()) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("teacher", ["disparity", "disparity and metric"])
def test_disparity_of_rooms(teacher):
    sample = room(3)
    views = RandomViews(24, size=96)(sample["id"])
    labels = [told(sample, views, tasks=["depth"], depth_kind="disparity", seed=1)]
    if teacher != "disparity":
        labels.append(told(sample, views, tasks=["depth"], scale=0.02))
    merged = fuse(labels, views, 128, 256)
    assert relative_error(merged.depth, sample["depth"], True) < 0.01
    assert merged.scales.shape == merged.shifts.shape == (24 * len(labels),)
    if teacher == "disparity":
        assert float(merged.depth[merged.depth > 0].median()) == pytest.approx(1, abs=0.3)
        assert merged.shifts.abs().min() > 0
    else:
        assert relative_error(merged.depth, sample["depth"], False) < 0.03


@pytest.mark.parametrize("size", [24, 8])
@pytest.mark.parametrize("table_bytes", [2**29, 1])
def test_probabilities_are_averaged_as_a_loop_would(size, table_bytes, monkeypatch):
    monkeypatch.setattr(class_fusion, "TABLE_BYTES", table_bytes)
    monkeypatch.setitem(class_fusion.PIXELS_AT_ONCE, "cpu", 500)
    random = torch.Generator().manual_seed(0)
    probabilities = torch.rand(6, 5, size, size, generator=random).softmax(1)
    confidence = torch.rand(6, 24, 24, generator=random).round(decimals=1)
    merged = fuse([ViewLabels(probabilities, confidence=confidence)], VIEWS, HEIGHT, WIDTH)
    total = torch.zeros(HEIGHT * WIDTH, 5)
    for index, foot in enumerate(footprints(VIEWS, HEIGHT, WIDTH)):
        row = foot.points.corner // 24
        x, y = foot.points.corner - 24 * row + foot.points.right, row + foot.points.down
        grid = torch.stack(((x + 0.5) / 12 - 1, (y + 0.5) / 12 - 1), -1)[None, None]
        options = {"padding_mode": "border", "align_corners": False}
        found = torch.nn.functional.grid_sample(probabilities[index : index + 1], grid, **options)[0, :, 0].T
        sure = torch.nn.functional.grid_sample(confidence[index][None, None], grid, mode="nearest", **options).flatten()
        own = merged.views[index]
        assert torch.equal(own.pixels, foot.pixels)
        clear = found.topk(2, 1)[0].diff(dim=1).abs()[:, 0] > 1e-4
        assert torch.equal(own.semseg[clear & (sure > 0)].long(), found.argmax(1)[clear & (sure > 0)])
        assert (own.semseg[sure == 0] == 255).all()
        total[foot.pixels] += found * (sure * foot.weight)[:, None]
    clear = (total.topk(2, 1)[0].diff(dim=1).abs()[:, 0] > 1e-3).view(HEIGHT, WIDTH)
    assert clear.float().mean() > 0.8
    assert torch.equal(merged.semseg[clear].long(), total.argmax(1).view(HEIGHT, WIDTH)[clear])
    share = (total.amax(1) / total.sum(1)).nan_to_num().view(HEIGHT, WIDTH)
    assert (merged.confidence["semseg"] <= share + 1e-4).all()  # the teacher's own doubt comes on top


def test_one_fusion_does_not_change_the_next():
    """Whatever came before in the thread: other sizes, several teachers, inference mode."""

    def fused(count, classes, size):
        random = torch.Generator().manual_seed(classes)
        labels = [ViewLabels(torch.rand(6, classes, size, size, generator=random).softmax(1)) for _ in range(count)]
        merged = fuse(labels, VIEWS, HEIGHT, WIDTH)
        return [merged.semseg, merged.confidence["semseg"], *(view.semseg for view in merged.views)]

    cases = [(1, 5, 24), (2, 9, 24), (1, 3, 8)]
    alone = []
    for case in cases:
        with ThreadPoolExecutor(1) as fresh:
            alone.append(fresh.submit(fused, *case).result())
    for order in itertools.permutations(range(len(cases))):
        for number in order:
            with torch.inference_mode(number == 1):
                again = fused(*cases[number])
            assert all(map(torch.equal, again, alone[number]))


def test_a_turned_panorama_has_turned_labels():
    wrong = torch.exp(0.2 * torch.randn(6, generator=torch.Generator().manual_seed(0)))
    labels = ball(VIEWS, wrong=wrong)
    turned = Views(rotation_matrix(90.0) @ VIEWS.rotations, VIEWS.intrinsics, 24, 24)
    one, other = fuse([labels], VIEWS, HEIGHT, WIDTH), fuse([labels], turned, HEIGHT, WIDTH)
    assert (one.semseg.roll(WIDTH // 4, -1) == other.semseg).float().mean() > 0.999
    # The pixels on which scales are compared do not turn along.
    assert torch.allclose(one.depth.roll(WIDTH // 4, -1), other.depth, rtol=2e-3)
    expected = torch.einsum("ij,jhw->ihw", rotation_matrix(90.0), one.normals.roll(WIDTH // 4, -1))
    assert torch.allclose(expected, other.normals, atol=1e-3)


def test_the_order_of_views_does_not_matter():
    wrong = torch.exp(0.2 * torch.randn(6, generator=torch.Generator().manual_seed(0)))
    labels, order = ball(VIEWS, wrong=wrong), torch.tensor([3, 1, 5, 0, 2, 4])
    one, other = fuse([labels], VIEWS, HEIGHT, WIDTH), fuse([part(labels, order)], some(VIEWS, order), HEIGHT, WIDTH)
    assert (one.semseg == other.semseg).float().mean() > 0.999
    assert torch.allclose(one.depth, other.depth, rtol=1e-4)
    assert torch.allclose(one.scales[order], other.scales, rtol=1e-4)
    assert torch.equal(one.views[3].pixels, other.views[0].pixels)


def test_scales_are_what_the_depth_was_multiplied_with():
    wrong = torch.tensor([0.8, 1.25, 0.8, 1.25, 0.9, 1 / 0.9])
    merged = fuse([ball(VIEWS, wrong=wrong)], VIEWS, HEIGHT, WIDTH)
    assert torch.allclose(merged.scales * wrong, torch.ones(6), atol=2e-3)
    assert not merged.shifts.any()


def test_invalid_pixels_and_classes_without_depth_have_no_label():
    labels = ball(VIEWS)
    invalid = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    invalid[25:] = True
    merged = fuse([labels], VIEWS, HEIGHT, WIDTH, invalid=invalid, no_depth_classes=[1])
    sky = merged.semseg == 1
    assert 0.1 < sky.float().mean() < 0.6
    bare = invalid | sky
    assert (merged.semseg[invalid] == 255).all() and (merged.semseg[~invalid] < 3).all()
    assert (merged.depth[bare] == 0).all() and (merged.depth[~bare] > 0).all()
    assert (merged.normals[:, bare] == 0).all() and (merged.normals[:, ~bare] != 0).any(0).all()
    assert (merged.confidence["depth"][bare] == 0).all() and (merged.confidence["normals"][bare] == 0).all()
    assert (merged.confidence["semseg"][invalid] == 0).all()
    for view in merged.views:
        assert not invalid.flatten()[view.pixels].any()
        assert ((view.depth == 0) == sky.flatten()[view.pixels]).all()
        assert ((view.normals == 0).all(1) == sky.flatten()[view.pixels]).all()
    nothing = fuse([labels], VIEWS, HEIGHT, WIDTH, invalid=torch.ones_like(invalid))
    assert (nothing.semseg == 255).all() and not nothing.depth.any() and not nothing.normals.any()
    assert not any(one.any() for one in nothing.confidence.values())


def test_a_single_view_is_its_own_label():
    labels, alone = part(ball(VIEWS), slice(2, 3)), some(VIEWS, slice(2, 3))
    merged = fuse([labels], alone, HEIGHT, WIDTH)
    view = merged.views[0]
    assert torch.equal(merged.semseg.flatten()[view.pixels], view.semseg)
    assert torch.allclose(merged.depth.flatten()[view.pixels], view.depth, rtol=1e-5)
    unseen = torch.ones(HEIGHT * WIDTH, dtype=torch.bool)
    unseen[view.pixels] = False
    assert (merged.semseg.flatten()[unseen] == 255).all() and not merged.depth.flatten()[unseen].any()
    assert merged.scales.item() == pytest.approx(1)


def test_views_without_overlap_keep_their_scale():
    views = CubeViews(80, 24)("a")
    wrong = torch.tensor([0.8, 1.1, 0.9, 1.2, 1.0, 1.3])
    merged = fuse([ball(views, wrong=wrong)], views, HEIGHT, WIDTH)
    assert torch.allclose(merged.scales, torch.ones(6), atol=1e-4)
    assert torch.allclose(merged.views[3].depth, torch.full_like(merged.views[3].depth, 2 * 1.2), rtol=0.02)


def test_a_view_without_depth_leaves_it_to_the_others():
    labels = ball(VIEWS)
    depth = labels.depth.clone()
    depth[1] = 0
    depth[2, :5] = math.nan
    depth[3, :5] = math.inf
    depth[4, :5] = -1
    merged = fuse([ViewLabels(depth=depth)], VIEWS, HEIGHT, WIDTH)
    assert not merged.views[1].depth.any()
    assert merged.depth.isfinite().all() and merged.scales.isfinite().all()
    assert torch.allclose(merged.depth[merged.depth > 0], torch.tensor(2.0), rtol=0.06)
    nothing = fuse([ViewLabels(depth=torch.zeros_like(depth))], VIEWS, HEIGHT, WIDTH)
    assert not nothing.depth.any() and not nothing.confidence["depth"].any()


def test_only_what_was_given_comes_back():
    labels = ball(VIEWS)
    merged = fuse([ViewLabels(normals=labels.normals)], VIEWS, HEIGHT, WIDTH)
    assert merged.semseg is None and merged.depth is None and merged.scales is None
    assert set(merged.confidence) == {"normals"}
    assert merged.views[0].semseg is None and merged.views[0].depth is None
    assert fuse([labels], VIEWS, HEIGHT, WIDTH, keep_views=False).views == ()


def test_two_teachers_of_a_task_are_averaged():
    one, other = ball(VIEWS, seed=0), ball(VIEWS, seed=1)
    both = fuse([ViewLabels(one.probabilities), other], VIEWS, HEIGHT, WIDTH)
    mean = fuse([ViewLabels((one.probabilities + other.probabilities) / 2)], VIEWS, HEIGHT, WIDTH)
    assert (both.semseg == mean.semseg).float().mean() > 0.999
    assert torch.allclose(both.confidence["semseg"], mean.confidence["semseg"], atol=1e-5)
    for a, b in zip(both.views, mean.views, strict=True):
        assert (a.semseg == b.semseg).float().mean() > 0.99
    double = fuse([ViewLabels(depth=1.1 * one.depth), ViewLabels(depth=one.depth / 1.1)], VIEWS, HEIGHT, WIDTH)
    assert torch.allclose(double.depth, torch.tensor(2.0), rtol=0.01)


def test_confidence_follows_agreement_and_the_teachers():
    views = IcosahedronViews(110, 24)("a")
    labels = ball(views)
    random = torch.Generator().manual_seed(0)
    noise = torch.exp(0.3 * torch.randn(labels.depth.shape, generator=random))
    sure = fuse([labels], views, HEIGHT, WIDTH).confidence
    noisy = fuse([ViewLabels(depth=labels.depth * noise)], views, HEIGHT, WIDTH).confidence
    assert noisy["depth"].mean() < sure["depth"].mean() - 0.2
    half = torch.full((12, 24, 24), 0.5)
    doubtful = fuse(
        [ViewLabels(labels.probabilities, labels.depth, normals=labels.normals, confidence=half)], views, HEIGHT, WIDTH
    ).confidence
    for task, values in sure.items():
        assert values.min() >= 0 and values.max() <= 1
        assert torch.allclose(doubtful[task], values / 2, atol=1e-3)


def test_labels_are_better_where_the_confidence_is_higher():
    """Over several rooms, labels of a single view are less certain than those on which many agree."""
    teacher = OracleTeacher(scale=0.2, noise=0.05, wrong_classes=0.1, border_shift=2, bleed=2, normals_noise=5)
    errors, confidences = ({task: [] for task in ("semseg", "depth", "normals")} for _ in range(2))
    for index in range(6):
        sample, views = room(index, 96), RandomViews(count=10, size=96)(str(index))
        merged = fuse([teacher(ViewImages(cut(sample["image"], views), views, sample))], views, 96, 192)
        known = merged.depth > 0
        off = (merged.depth / sample["depth"])[known].log()
        errors["depth"].append((off - off.median()).abs())
        errors["normals"].append(1 - (merged.normals * sample["normals"]).sum(0)[known])
        errors["semseg"].append((merged.semseg != sample["semseg"]).float()[known])
        for task, values in merged.confidence.items():
            confidences[task].append(values[known])
    for task in errors:
        error, confidence = torch.cat(errors[task]), torch.cat(confidences[task])
        low, high = confidence.quantile(torch.tensor([0.25, 0.75]))
        assert error[confidence <= low].mean() > 1.2 * error[confidence >= high].mean(), task


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([], {}, "nothing to fuse"),
        ([ViewLabels(depth=torch.ones(5, 24, 24))], {}, "depth of these views is"),
        ([ViewLabels(torch.ones(5, 3, 24, 24))], {}, "6 views are"),
        ([ViewLabels(torch.ones(6, 300, 2, 2))], {}, "classes, at most 255"),
        ([ViewLabels(torch.ones(6, 3, 2, 2)), ViewLabels(torch.ones(6, 4, 2, 2))], {}, "the same"),
        ([ViewLabels(depth=torch.ones(6, 24, 24))], {"invalid": torch.zeros(3, 3, dtype=torch.bool)}, "invalid must"),
    ],
)
def test_what_does_not_fit_is_refused(labels, options, words):
    with pytest.raises(ValueError, match=words):
        fuse(labels, VIEWS, HEIGHT, WIDTH, **options)
