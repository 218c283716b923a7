"""`mtpano export`: write a network as one file that runs without this package, and check it."""

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.machine.garbage import no_collection
from mtpano_zoo.models import prepare_for_inference
from mtpano_zoo.models.inference import InferenceNetwork
from mtpano_zoo.output_paths import check_destination
from mtpano_zoo.outputs import weight_type
from mtpano_zoo.prediction.attitude import notices_tilt
from mtpano_zoo.tasks import MAIN_TASKS, Task

__all__ = ("FORMATS", "Format", "export")

Format = Literal["onnx", "torch-export"]
Run: TypeAlias = Callable[[Tensor], dict[str, Tensor]]  # a written network: images to maps by task
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxscript", "onnx_ir", "onnxruntime")


class _Outputs(nn.Module):
    """Map images (B, 3, H, W) in [0, 1] to the maps of all tasks, in task order and in our frame and units."""

    def __init__(self, network: InferenceNetwork) -> None:
        super().__init__()
        self.network = network
        self.tasks = cast("tuple[str, ...]", network.tasks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        return tuple(_finish(MAIN_TASKS[task], outputs[task]) for task in self.tasks)


def _finish(task: Task, values: Tensor) -> Tensor:
    if task.kind == "positive":
        return values.clamp_min(task.minimum)
    return F.normalize(values, dim=1) if task.kind == "direction" else values


def export(
    network: nn.Module,
    path: str | Path,
    format: Format,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a network to a file that takes any number of images of one size.

    The input is `image` (B, 3, H, W), float32 RGB in [0, 1]. The outputs are named after the network's tasks: `semseg`
    logits (B, C, H, W), `depth` (B, 1, H, W) in metres along the ray, `normals` (B, 3, H, W) of unit length, x right,
    y down, z forward. The metadata holds the class names and the image size. Before the file gets its final name, it is
    run on batches of three images and of one, and compared with the network.

    Args:
        network: A network of the zoo on the CPU; it is not changed.
        path: The file to write.
        format: `onnx`, or `torch-export` for `torch.export.load`.
        size: Height and width of the images; the network's own by default.
        overwrite: Replace existing files.

    Returns:
        The files written: the network and, for ONNX weights of more than 2 GB, `NAME.data`, which must stay beside it
        under that name.

    Raises:
        FileExistsError: If the file exists and `overwrite` is false.
        OSError: If the file cannot be written.
        InputError: If the format or size is invalid, a package is missing, the format cannot express a part of the
            network, or the written file computes something else.
    """
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    path = Path(path)
    if format == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise InputError(f"ONNX export needs {', '.join(missing)}: pip install 'mtpano_zoo[export]'")
    check_destination(path, format, overwrite)
    if (kind := weight_type(network)) != torch.float32:
        raise InputError(f"the network's weights are {kind}, but export needs float32: call network.float() first")
    height, width = cast("tuple[int, int]", network.input_size) if size is None else size
    if height < 1 or width != 2 * height:
        raise InputError(f"a panorama is twice as wide as high: the network cannot be exported for {height} x {width}")
    prepared = prepare_for_inference(network, winograd=False)
    if notices_tilt(prepared):
        prepared.network.register_module("up_head", None)  # only `predict` uses it
    outputs = _Outputs(prepared).eval()
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = dict(zip(outputs.tasks, outputs(images), strict=True))
    facts = {"height": height, "width": width, "classes": list(getattr(network, "classes", ()))}
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    write, load = (_write_onnx, _load_onnx) if format == "onnx" else (_write_program, _load_program)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary folder uses the final names, because an ONNX file names its weight file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        try:
            with no_collection():
                write(_trace(outputs, images[:2]), temporary, outputs.tasks, metadata)
        except OSError:
            raise
        except Exception as error:  # exporters raise anything
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{type(network).__name__} cannot be written as {format}: {reason}") from error
        run = load(temporary, outputs.tasks)
        for batch in (images, images[:1]):
            _compare(run(batch), expected, path)
        del run  # it may hold the file open
        files = sorted(Path(folder).iterdir(), reverse=True)  # weights first: the graph is useless without them
        return [file.replace(path.parent / file.name) for file in files][::-1]


def _trace(outputs: _Outputs, images: Tensor) -> torch.export.ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch warns about its own code
        return torch.export.export(outputs, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _write_program(
    program: torch.export.ExportedProgram, path: Path, tasks: Sequence[str], metadata: Mapping[str, str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns about weights that share memory
        torch.export.save(program, path, extra_files={"tasks": json.dumps(list(tasks)), **metadata})


def _load_program(path: Path, tasks: Sequence[str]) -> Run:
    program = torch.export.load(path).module()

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(tasks, program(images), strict=True))

    return run


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, tasks: Sequence[str], metadata: Mapping[str, str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written: Any = torch.onnx.export(
            program, input_names=["image"], output_names=list(tasks), verbose=False, optimize=False
        )
    _simplify(written.model)
    written.model.metadata_props.update(metadata)
    written.save(path)


def _simplify(model: Any) -> None:
    """Fold constants and merge duplicates.

    The exporter's own optimisation also tries to rewrite every node with every rule, which takes more than half of the
    total time and changes almost nothing: for `mtpano-tiny.rooms`, 2794 nodes become 2751.
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    fold_constants(model)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _load_onnx(path: Path, tasks: Sequence[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs: list[Any] = session.run(list(tasks), {"image": images.numpy()})
        return {task: torch.from_numpy(output) for task, output in zip(tasks, outputs, strict=True)}

    return run


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse outputs that differ from the network's, relative to the largest value of their task.

    Raises:
        InputError: If one of them differs by more than `TOLERANCE`.
    """
    for task, output in found.items():
        wanted = expected[task][: len(output)]
        same = output.shape == wanted.shape
        error = float((output - wanted).abs().max() / wanted.abs().max()) if same else float("nan")
        if not error <= TOLERANCE:
            raise InputError(
                f"{path} was not written: {task} of the exported network differs from PyTorch by {error:.1e} of its "
                f"largest value, with {len(output)} images in a batch."
            )
