"""The rooms of the house import in one direction: a circle between modules or packages fails here and is named."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mtpano_zoo"
# Rooms from the ground up. A room imports only those before it; the command line imports everything.
ROOMS = (
    "errors",
    "machine",
    "spelling",
    "limits",
    "text_files",
    "output_paths",
    "resources",
    "short_verbs",
    "classes",
    "tasks",
    "scene_classes",
    "sphere",
    "resize",
    "image_io",
    "image_files",
    "manifest",
    "layers",
    "outputs",
    "viz",
    "point_cloud",
    "export",
    "prediction",
    "files",
    "models",
    "reference",
    "zoo",
    "losses",
    "metrics",
    "scenes",
    "data",
    "evaluation",
    "training",
    "run",
    "labeling",
    "generation",
    "viewer",
    "commands",
    "verbs",
    "cli",
)


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST, name: str, modules: set[str]) -> Iterator[str]:
    """Every module of ours that a module imports when it runs, at the top or inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    yield inner
                elif node.module in modules:
                    yield node.module
        else:
            yield from imports_of(node, name, modules)


@cache
def import_graph(package: Path) -> dict[str, set[str]]:
    paths = {module_name(path, package): path for path in package.rglob("*.py")}
    return {
        name: set(imports_of(ast.parse(path.read_text(encoding="utf-8")), name, set(paths))) - {name, package.name}
        for name, path in paths.items()
        if name != package.name  # the public names, imported when they are asked for
    }


def rooms_of(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders and files directly below the package."""
    rooms: dict[str, set[str]] = {}
    for name, imported in graph.items():
        room = name.split(".")[1]
        rooms.setdefault(room, set()).update(other.split(".")[1] for other in imported)
    return {room: imported - {room} for room, imported in rooms.items()}


def circle_in(graph: Mapping[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if found := visit(other, [*trail, name]):
                    return found
            done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name, []))), None)


def without_packages(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """A package collects the names of its modules, which may import one another but not the package."""
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    return {name: {x for x in imported if x not in packages or x not in name} for name, imported in graph.items()}


def test_modules_form_no_circle() -> None:
    assert circle_in(without_packages(import_graph(PACKAGE))) is None


def test_rooms_form_no_circle() -> None:
    assert circle_in(rooms_of(import_graph(PACKAGE))) is None


def test_a_configuration_of_labels_may_name_what_its_command_imports() -> None:
    graph, known, new = import_graph(PACKAGE), set(), {"mtpano_zoo.labeling.run"}
    while new:
        known |= new
        new = set().union(*(graph.get(name, ()) for name in new)) - known
    assert known >= {"mtpano_zoo.labeling.masks", "mtpano_zoo.zoo.pretrained"}


def test_rooms_import_downwards() -> None:
    rooms = rooms_of(import_graph(PACKAGE))
    assert set(rooms) == set(ROOMS) & set(rooms), "a new room needs its place in ROOMS"
    upwards = [
        f"{room} imports {other}"
        for room, imported in rooms.items()
        for other in imported
        if ROOMS.index(other) > ROOMS.index(room)
    ]
    assert upwards == []


@pytest.mark.parametrize("inside_a_function", [False, True])
def test_a_new_circle_would_be_found(tmp_path: Path, inside_a_function: bool) -> None:
    package = tmp_path / "mtpano_zoo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from mtpano_zoo.b import x\n")
    late = "def f():\n    import mtpano_zoo.a\n" if inside_a_function else "import mtpano_zoo.a\n"
    (package / "b.py").write_text(late)
    circle = ["mtpano_zoo.a", "mtpano_zoo.b", "mtpano_zoo.a"]
    assert circle_in(import_graph(package)) == circle
    assert circle_in(rooms_of(import_graph(package))) == ["a", "b", "a"]


def unlisted(package: Path) -> set[str]:
    """The names that a module imports from another one, whose `__all__` does not list them."""
    trees = {module_name(path, package): ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
    listed = {
        name: {
            one.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for one in ast.walk(node.value)
            if isinstance(one, ast.Constant)
        }
        for name, tree in trees.items()
    }
    imported = {
        (node.module, alias.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in trees
        for alias in node.names
        if f"{node.module}.{alias.name}" not in trees
    }
    return {f"{module}.{name}" for module, name in imported if name not in listed[module]}


def test_modules_list_what_others_import() -> None:
    assert unlisted(PACKAGE) == set()


def test_a_name_that_is_not_listed_would_be_found(tmp_path: Path) -> None:
    package = tmp_path / "mtpano_zoo"
    package.mkdir()
    (package / "a.py").write_text("from mtpano_zoo.b import x, y\n")
    (package / "b.py").write_text("__all__ = ('x',)\n")
    assert unlisted(package) == {"mtpano_zoo.b.y"}


def test_imports_for_annotations_are_no_imports(tmp_path: Path) -> None:
    package = tmp_path / "mtpano_zoo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from mtpano_zoo.b import x\n")
    (package / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mtpano_zoo.a\n")
    assert circle_in(import_graph(package)) is None


def test_diffusers_is_imported_when_it_is_needed() -> None:
    """The extra `generation` may be absent: only the small FLUX.1, whose parts are subclasses, imports it at once."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if {name.split(".")[0] for name in names} & {"diffusers", "peft", "accelerate"}:
                found.add(path.relative_to(PACKAGE).as_posix())
            assert "mtpano_zoo.generation.tiny" not in names
    assert found == {"generation/tiny.py"}
