"""Measure how well and how fast the views of a panorama are fused.

``python benchmarks/labeling.py quality``: rooms labelled by an oracle whose depth is off by 20 % per view and 5 % per
pixel, whose classes are partly wrong and bleed over edges, and whose normals are noisy. The merged maps are compared
with the plain average of all views (every view on its own panorama by ``sphere.from_perspective``, without alignment or
weights) and with the best single view.

``python benchmarks/labeling.py speed --threads 2``: the time of everything but the teacher, by stage, for one panorama
of 512 x 1024 and 32 views of 512 x 512, compared with the same plain average.

``python benchmarks/labeling.py share``: the teacher's share of the time. The teacher is a ViT-L/14 at 518 x 518 with
random weights, in bfloat16. Teacher, views and fusion run on a GPU if there is one.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import BoundedSemaphore

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.labeling.back_projection import cut, footprints
from mtpano_zoo.labeling.encoding import encode_image, encode_labels
from mtpano_zoo.labeling.fusion import PanoramaLabels, fuse
from mtpano_zoo.labeling.storage import LabelFolder
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews, Views
from mtpano_zoo.sphere import from_perspective, solid_angles, unit, z_to_distance

DEFECTS = {"scale": 0.2, "noise": 0.05, "softness": 0.3, "wrong_classes": 0.1, "bleed": 2, "normals_noise": 8.0}
WRITERS = 2  # as many as `mtpano label` has


def plain_average(labels: ViewLabels, views: Views, height: int, width: int) -> PanoramaLabels:
    """Return the mean of distances, normals and probabilities over all views that see a pixel."""
    maps: dict[str, Tensor] = {}
    if labels.probabilities is not None:
        maps["probabilities"] = labels.probabilities
    if labels.depth is not None:
        maps["depth"] = z_to_distance(labels.depth, views.intrinsics)[:, None]
    if labels.normals is not None:
        maps["normals"] = labels.normals
    means = {}
    for task, values in maps.items():
        total, count = torch.zeros(values.shape[1], height, width), torch.zeros(height, width)
        for i in range(len(views)):
            intrinsics = views.intrinsics[i].clone()
            intrinsics[:2, :] *= torch.tensor([values.shape[3] / views.width, values.shape[2] / views.height])[:, None]
            intrinsics[:2, 2] += 0.5 * (
                torch.tensor([values.shape[3] / views.width, values.shape[2] / views.height]) - 1
            )
            mode = {"probabilities": "image", "depth": "depth", "normals": "vectors"}[task]
            one, valid = from_perspective(
                values[i][None, None], views.rotations[i], height, width, intrinsics=intrinsics, mode=mode
            )
            total += one[0, 0] * valid[0, 0]
            count += valid[0, 0]
        means[task] = total / count.clamp(min=1)
    semseg = means["probabilities"].argmax(0).to(torch.uint8) if "probabilities" in means else None
    normals = unit(means["normals"], dim=0) if "normals" in means else None
    return PanoramaLabels(semseg, means["depth"][0] if "depth" in means else None, normals)


def border_jump(depth: Tensor, truth: Tensor, views: Views) -> tuple[float, float]:
    """Return the mean jump of the log-distance error between neighbours: across the border of a view, and elsewhere."""
    height, width = truth.shape
    seen = torch.zeros(len(views), height * width, dtype=torch.bool)
    for i, foot in enumerate(footprints(views, height, width)):
        seen[i, foot.pixels] = True
    seen, error = seen.view(-1, height, width), (depth / truth).log()
    jumps, across = [], []
    for dim, other in ((0, (slice(1, None), slice(None))), (1, (slice(None), slice(1, None)))):
        here = (slice(None, -1), slice(None)) if dim == 0 else (slice(None), slice(None, -1))
        # Edges of objects are left to the other scores, because the teacher itself is wrong there.
        known = (depth[here] > 0) & (depth[other] > 0) & ((truth[here] / truth[other]).log().abs() < 0.1)
        jumps.append((error[other] - error[here]).abs()[known])
        across.append((seen[(slice(None), *other)] != seen[(slice(None), *here)]).any(0)[known])
    jump, border = torch.cat(jumps), torch.cat(across)
    return float(jump[border].mean()), float(jump[~border].mean())


def scores(found: PanoramaLabels, sample: dict[str, Tensor], mask: Tensor | None = None) -> dict[str, float]:
    """Return the errors of maps (H, W) where they have values, weighted by solid angle."""
    truth, result = sample["depth"], {}
    weights = solid_angles(*truth.shape).expand(truth.shape)
    mask = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask

    def mean(values: Tensor, known: Tensor) -> float:
        return float((values * weights)[known].sum() / weights[known].sum())

    if found.depth is not None:
        known = (found.depth > 0) & mask
        ratio = found.depth / truth
        result["AbsRel"] = mean((ratio - 1).abs(), known)
        result["AbsRel/median_aligned"] = mean((ratio / ratio[known].median() - 1).abs(), known)
    if found.normals is not None:
        cosine = (found.normals * sample["normals"]).sum(0).clamp(-1, 1)
        result["normals mean"] = mean(cosine.acos().rad2deg(), (found.normals != 0).any(0) & mask)
    if found.semseg is not None:
        known = (found.semseg != 255) & mask
        result["accuracy"] = mean((found.semseg == sample["semseg"]).float(), known)
        classes = sample["semseg"][known].unique().tolist()
        overlap = []
        for one in classes:
            a, b = (found.semseg == one) & known, (sample["semseg"] == one) & known
            overlap.append(float((weights * (a & b)).sum() / (weights * (a | b)).sum()))
        result["mIoU"] = statistics.mean(overlap)
    return result


def densify(labels: PanoramaLabels, index: int, height: int, width: int) -> tuple[PanoramaLabels, Tensor]:
    """Return the maps of a single view, and the mask of the pixels that it sees."""
    view = labels.views[index]
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[view.pixels] = True
    semseg = torch.full((height * width,), 255, dtype=torch.uint8)
    depth, normals = torch.zeros(height * width), torch.zeros(3, height * width)
    semseg[view.pixels], depth[view.pixels], normals[:, view.pixels] = view.semseg, view.depth, view.normals.T
    size = (height, width)
    return PanoramaLabels(semseg.view(size), depth.view(size), normals.view(3, *size)), mask.view(size)


def quality(rooms: int, height: int, size: int) -> dict[str, dict[str, float]]:
    """Return the mean scores over rooms of the plain average, the best view and the merged maps.

    Every score has its own best view. "merged, there" scores the merged maps on the pixels that this view sees.
    """
    width, rows = 2 * height, {name: [] for name in ("plain average", "merged", "best view", "merged, there")}
    for index in range(rooms):
        sample = RoomsDataset("test", rooms, height, width)[index]
        views = RandomViews(32, size=size)(sample["id"])
        labels = OracleTeacher(**DEFECTS)(ViewImages(cut(sample["image"], views), views, sample))
        plain, ours = plain_average(labels, views, height, width), fuse([labels], views, height, width)
        for name, found in (("plain average", plain), ("merged", ours)):
            across, elsewhere = border_jump(found.depth, sample["depth"], views)
            rows[name].append({**scores(found, sample), "jump at borders": across, "jump elsewhere": elsewhere})
        alone, there = [], []
        for number in range(len(views)):
            single, mask = densify(ours, number, height, width)
            # With the teacher's own scale.
            unaligned = PanoramaLabels(single.semseg, single.depth / ours.scales[number], single.normals)
            alone.append(scores(unaligned, sample, mask))
            there.append(scores(ours, sample, mask))
        best = {}
        for key in alone[0]:
            highest = key in ("accuracy", "mIoU")
            best[key] = (max if highest else min)(range(len(alone)), key=lambda i, key=key: alone[i][key])
        rows["best view"].append({key: alone[i][key] for key, i in best.items()})
        rows["merged, there"].append({key: there[i][key] for key, i in best.items()})
    return {name: {key: statistics.mean(one[key] for one in many) for key in many[0]} for name, many in rows.items()}


def print_quality(rooms: int, height: int, size: int) -> None:
    """Print the table of `quality`."""
    table = quality(rooms, height, size)
    columns = list(table["merged"])
    print("| maps | " + " | ".join(columns) + " |\n|---|" + "--:|" * len(columns))
    for name, row in table.items():
        cells = [
            f"{row[key]:.2f}" if key == "normals mean" else f"{row[key]:.4f}" if key in row else "" for key in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def teacher_labels(count: int, size: int, classes: int, stride: int) -> ViewLabels:
    """Return plausible labels of a teacher: regions of classes, smooth depth, normals of planes."""
    random = torch.Generator().manual_seed(0)
    small = torch.rand(count, classes, 16, 16, generator=random) * 8
    probabilities = F.interpolate(small, size=(size // stride, size // stride), mode="bilinear").softmax(1)
    depth = F.interpolate(2 + torch.rand(count, 1, 8, 8, generator=random), size=(size, size), mode="bilinear")[:, 0]
    normals = unit(torch.randn(count, 3, 16, 16, generator=random), dim=1)
    return ViewLabels(probabilities, depth, normals=F.interpolate(normals, size=(size, size)))


def speed(classes: int, stride: int, repeats: int, plain: bool = True) -> dict[str, list[tuple[float, float]]]:
    """Return wall-clock and processor seconds of every stage, for every repetition."""
    height, width, size = 512, 1024, 512
    strategy = RandomViews(32, size=size)
    image, labels = torch.rand(3, height, width), teacher_labels(32, size, classes, stride)
    pixels = (255 * image).byte().movedim(0, -1).contiguous().numpy()
    views = strategy("panorama")
    merged = fuse([labels], views, height, width)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "manifest.json").write_text("{}")
        folder, number = LabelFolder(Path(root)), iter(range(10**6))

        def write(labels: PanoramaLabels) -> None:
            name = f"panorama-{next(number)}"
            folder.write(name, encode_image(pixels, height, width), encode_labels(labels).files)

        alone = PanoramaLabels(merged.semseg, merged.depth, merged.normals, merged.confidence)
        only = {
            "classes": ViewLabels(probabilities=labels.probabilities),
            "depth": ViewLabels(depth=labels.depth),
            "normals": ViewLabels(normals=labels.normals),
        }
        calls: dict[str, Callable[[], object]] = {
            "cut the views": lambda: cut(image, strategy("panorama")),
            "where views see the panorama": lambda: footprints(views, height, width),
            **{
                f"fuse {task}": lambda one=one: fuse([one], views, height, width, keep_views=True)
                for task, one in only.items()
            },
            "fuse all": lambda: fuse([labels], views, height, width),
            "fuse all, merged maps only": lambda: fuse([labels], views, height, width, keep_views=False),
            "encode and write, merged maps only": lambda: write(alone),
            "encode and write, with all views": lambda: write(merged),
            "plain average": lambda: plain_average(labels, views, height, width),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        with folder:
            for repeat in range(repeats + 1):
                for name, call in calls.items():
                    if name == "plain average" and (repeat != 1 or not plain):
                        continue  # it takes as long as all the others together
                    start, busy = time.perf_counter(), time.process_time()
                    call()
                    if repeat:  # the first round is a warm-up
                        seconds[name].append((time.perf_counter() - start, time.process_time() - busy))
    return seconds


def label_in_a_row(count: int, root: str, threads: int, classes: int, stride: int) -> tuple[float, float]:
    """Cut, fuse and write panoramas as `mtpano label` does, the last two in other threads; return begin and end."""
    torch.set_num_threads(threads)
    height, width, size = 512, 1024, 512
    strategy = RandomViews(32, size=size)
    image, labels = torch.rand(3, height, width), teacher_labels(32, size, classes, stride)
    pixels = (255 * image).byte().movedim(0, -1).contiguous().numpy()

    @torch.no_grad()
    def finish(name: str, views: Views) -> None:
        try:
            merged = fuse([labels], views, height, width)
            folder.write(name, encode_image(pixels, height, width), encode_labels(merged).files)
        finally:
            room.release()

    room, tasks = BoundedSemaphore(WRITERS), []
    with LabelFolder(Path(root)) as folder, ThreadPoolExecutor(WRITERS) as writers:
        for number in range(-1, count):
            views = strategy("panorama")
            cut(image, views)
            room.acquire()
            tasks.append(writers.submit(finish, f"{os.getpid()}-{number}", views))
            if number == -1:  # a warm-up
                tasks[0].result()
                start = time.time()
    for task in tasks:
        task.result()
    return start, time.time()


def throughput(processes: int, classes: int, stride: int, count: int = 10) -> float:
    """Return the seconds per panorama of processes that share the threads."""
    threads = max(1, torch.get_num_threads() // processes)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "manifest.json").write_text("{}")
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            tasks = [pool.submit(label_in_a_row, count, root, threads, classes, stride) for _ in range(processes)]
            begins, ends = zip(*(task.result() for task in tasks), strict=True)
    return (max(ends) - min(begins)) / (processes * count)


def print_speed(classes: int, stride: int, repeats: int, plain: bool) -> None:
    """Print the table of `speed`."""
    print(
        f"{classes} classes, one probability for {stride} x {stride} pixels, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(
        f"torch {torch.__version__}\n\n| stage | fastest, s | median, s | least processor time, s |\n|---|--:|--:|--:|"
    )
    for name, seconds in speed(classes, stride, repeats, plain).items():
        if not seconds:
            continue
        clock, busy = zip(*seconds, strict=True)
        print(f"| {name} | {min(clock):.3f} | {statistics.median(clock):.3f} | {min(busy):.3f} |")
    for processes in sorted({1, torch.get_num_threads()}):
        print(f"| all of it in a row, {processes} processes | {throughput(processes, classes, stride):.3f} | | |")


@torch.inference_mode()
def print_share(name: str, height: int, size: int, classes: int, stride: int, repeats: int) -> None:
    """Print the seconds per panorama of a teacher that labels 32 views, and of everything else."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model(name, num_classes=0).to(device).eval()
    side, strategy = network.default_cfg["input_size"][-1], RandomViews(32, size=size)
    image, labels = torch.rand(3, height, 2 * height, device=device), teacher_labels(32, size, classes, stride)
    labels = ViewLabels(labels.probabilities.to(device), labels.depth.to(device), normals=labels.normals.to(device))

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    times = []
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "manifest.json").write_text("{}")
        with LabelFolder(Path(root)) as folder:
            for number in range(repeats + 1):
                begin = clock()
                views = strategy(f"panorama-{number}")
                seen = F.interpolate(cut(image, views), (side, side), mode="bilinear")
                ready = clock()
                with torch.autocast(device.type, torch.bfloat16):
                    for part in seen.split(8):
                        network(part)
                looked = clock()
                merged = fuse([labels], views, height, 2 * height)
                pixels = (255 * image).byte().movedim(0, -1).contiguous().cpu().numpy()
                files = encode_labels(merged).files
                folder.write(f"panorama-{number}", encode_image(pixels, height, 2 * height), files)
                times.append((looked - ready, clock() - looked + ready - begin))
    teacher, rest = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print("| teacher | device | teacher, s | everything else, s | teacher's share |\n|---|---|--:|--:|--:|")
    print(f"| {name} | {device.type} | {teacher:.3f} | {rest:.3f} | {teacher / (teacher + rest):.0%} |")


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", choices=("quality", "speed", "share"))
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--height", type=int, default=256, help="rows of the rooms")
    parser.add_argument("--size", type=int, default=256, help="rows and columns of their views")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain average, which takes longest")
    parser.add_argument("--teacher", default="vit_large_patch14_dinov2", help="timm network for share")
    parser.add_argument("--panorama", type=int, default=512, help="rows of the panorama for share; views are as high")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.table == "share":
        rows = arguments.panorama
        print_share(arguments.teacher, rows, rows, arguments.classes, arguments.stride, arguments.repeats)
    elif arguments.table == "quality":
        print_quality(arguments.rooms, arguments.height, arguments.size)
    else:
        print_speed(arguments.classes, arguments.stride, arguments.repeats, not arguments.no_plain)


if __name__ == "__main__":
    main()
