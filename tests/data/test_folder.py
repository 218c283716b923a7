import csv
import io
import zlib

import numpy as np
import pytest
import yaml
from fake_files import png, room_maps, write
from PIL import Image

from mtpano_zoo.data import S3DIS_CLASSES, S3DIS_PALETTE, FolderDataModule, RoomsDataset, write_rooms
from mtpano_zoo.errors import InputError

SIZE = {"height": 32, "width": 64}
CLASSES = yaml.safe_dump(
    {"classes": [{"name": n, "color": c} for n, c in zip(S3DIS_CLASSES, S3DIS_PALETTE.tolist(), strict=True)]}
).encode()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def rooms():
    return [room_maps(number) for number in range(4)]


@pytest.fixture
def root(tmp_path, rooms):
    """Four panoramas: all labels, classes in colours and labels as arrays, depth alone, none."""
    colors = S3DIS_PALETTE[rooms[1]["semseg"]]
    colors[0, :5] = 0
    depth = rooms[1]["depth"].copy()
    depth[3, 4:8] = np.nan
    write(
        tmp_path / "own",
        {
            "classes.yaml": CLASSES,
            "images/a.png": png(rooms[0]["image"]),
            "semseg/a.png": png(rooms[0]["semseg"], S3DIS_PALETTE),
            "depth/a.png": png((rooms[0]["depth"] * 1000).round().astype(np.uint16)),
            "normals/a.png": png((128 + 127 * rooms[0]["normals"]).round().astype(np.uint8)),
            "images/b.jpg": jpeg(rooms[1]["image"]),
            "semseg/b.png": png(colors),
            "depth/b.npy": npy(depth),
            "normals/b.npy": npy(rooms[1]["normals"].astype(np.float64)),
            "images/c.c.png": png(rooms[2]["image"]),
            "depth/c.c.png": png((rooms[2]["depth"] * 1000).round().astype(np.uint16)),
            "images/d.png": png(rooms[3]["image"]),
            "train.txt": b"a\nb\n",
            "val.txt": b"c.c\n",
        },
    )
    return tmp_path / "own"


def test_every_encoding_gives_the_room(root, rooms, check_sample):
    data = FolderDataModule(root, **SIZE)
    assert data.classes == S3DIS_CLASSES
    assert np.array_equal(data.palette, S3DIS_PALETTE)
    train = data.dataset("train")
    check_sample(train[0], rooms[0], depth_step=0.00051, normals_step=0.01)
    holes = {"semseg": rooms[1]["semseg"].copy(), "depth": rooms[1]["depth"].copy()}
    holes["semseg"][0, :5] = 255
    holes["depth"][3, 4:8] = 0
    check_sample(train[1], rooms[1] | holes, depth_step=0, normals_step=1e-6, image_step=80)  # a JPEG
    depth_only = {key: rooms[2][key] for key in ("image", "depth")}
    check_sample(data.dataset("val")[0], depth_only, depth_step=0.00051, normals_step=0)
    assert [data.dataset("predict").name(i) for i in range(4)] == ["a", "b", "c.c", "d"]


def test_what_rooms_are_written_as_is_read_again(tmp_path, check_sample):
    write_rooms(tmp_path / "rooms", "val", 3, 16, 32)
    data = FolderDataModule(tmp_path / "rooms", height=16, width=32, val_fraction=0, test_fraction=0)
    expected = RoomsDataset("val", 3, 16, 32)
    assert data.classes == S3DIS_CLASSES
    for i in range(3):
        maps = {key: expected[i][key].numpy() for key in ("image", "semseg", "depth", "normals")}
        truth = maps | {"image": (maps["image"] * 255).round().transpose(1, 2, 0)}
        truth["normals"] = maps["normals"].transpose(1, 2, 0)
        check_sample(data.dataset("train")[i], truth, depth_step=0.00051, normals_step=5e-5)


def test_the_automatic_split_stays_when_panoramas_are_added(tmp_path, rooms):
    label = png(rooms[0]["semseg"])
    names = [f"room {i}" for i in range(300)]
    files = {f"semseg/{name}.png": label for name in names} | {f"images/{name}.png": b"" for name in names}
    write(tmp_path, files | {"classes.yaml": CLASSES})

    def split():
        data = FolderDataModule(tmp_path, val_fraction=0.2, test_fraction=0.3)
        return {
            which: {data.dataset(which).name(i) for i in range(len(data.dataset(which)))}
            for which in ("train", "val", "test")
        }

    before = split()
    assert 40 < len(before["val"]) < 80
    assert 65 < len(before["test"]) < 115
    assert sum(map(len, before.values())) == 300
    write(tmp_path, {"semseg/another.png": label, "images/another.png": b""})
    after = split()
    assert all(before[which] == after[which] - {"another"} for which in before)


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (12, (10, 1, 1))])
def test_a_small_folder_has_something_of_every_split(tmp_path, rooms, count, expected):
    """None of these names falls into the first hundredths, so by their shares all would be for training."""
    names = [f"room {i}" for i in range(40) if zlib.crc32(f"room {i}".encode()) / 2**32 > 0.02][:count]
    files = {f"semseg/{name}.png": png(rooms[0]["semseg"]) for name in names} | {f"images/{n}.png": b"" for n in names}
    write(tmp_path, files | {"classes.yaml": CLASSES})
    data = FolderDataModule(tmp_path, val_fraction=0.01, test_fraction=0.01)
    for which, there in zip(("train", "val", "test"), expected, strict=True):
        if there:
            assert len(data.dataset(which)) == there
        else:
            with pytest.raises(ValueError, match="none"):
                data.dataset(which)


def test_a_table_in_place_of_folders(tmp_path, root, rooms, check_sample):
    rows = [
        {"image": "images/d.png", "semseg": "semseg/a.png", "split": "train", "name": "first"},
        {"image": str(root / "images/a.png"), "semseg": "", "split": "test", "name": ""},
        {"image": "images/b.jpg", "semseg": "semseg/b.png", "split": "", "name": ""},
    ]
    with (tmp_path / "own" / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "semseg", "split", "name"])
        writer.writeheader()
        writer.writerows(rows)
    data = FolderDataModule(root, table="table.csv", val_fraction=0, test_fraction=0, **SIZE)
    assert data.tasks == ("semseg",)
    assert [data.dataset("train").name(i) for i in range(2)] == ["first", "b"]
    check_sample(data.dataset("train")[0], {"image": rooms[3]["image"], "semseg": rooms[0]["semseg"]}, 0, 0)
    with pytest.raises(ValueError, match="none for test"):  # it has no label
        data.dataset("test")


def test_training_on_it(root, fit):
    fit("FolderDataModule", root)


@pytest.mark.parametrize("classes", [b"classes: [wall, floor, other]", b"classes: [{name: wall}, floor, other]"])
def test_classes_without_colours_get_some(root, classes):
    write(root, {"classes.yaml": classes})
    data = FolderDataModule(root, tasks=["semseg"])
    assert data.classes == ("wall", "floor", "other")
    assert len(np.unique(data.palette, axis=0)) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes.yaml": b"classes: [wall, wall]"}, "must name 1 to 255 different classes"),
        ({"classes.yaml": b"- wall"}, "is not a list of classes such as"),
        ({"classes.yaml": b"classes: sofa"}, "is not a list of classes such as"),
        ({"classes.yaml": b"classes: [{name: wall, color: [1, 2]}, floor]"}, "is not a list of classes"),
        ({"classes.yaml": b"classes: [{name: wall, color: 100}]"}, "is not a list of classes"),
        ({"classes.yaml": b"classes: [{name: wall, id: 1}, floor]"}, "has the key id in a class, but"),
        ({"classes.yaml": b"classes: [{name: wall, colour: [1, 2, 3]}]"}, "has the key colour in a class, but"),
        ({"classes.yaml": b"classes: ["}, r"classes\.yaml is not YAML"),
        ({"classes.yaml": b"classes: [[wall], floor]"}, "is not a list of classes"),
        ({"classes.yaml": b"classes: [wall, '']"}, "must name 1 to 255 different classes"),
        ({"images/a.jpg": b""}, r"images/a\.jpg and a\.png have the same name"),
        ({"depth/z.png": b""}, r"depth/z\.png belongs to no panorama"),
        ({"test.txt": b"nobody"}, r"test\.txt: nobody is not in images/"),
        ({"test.txt": b"a"}, r"test\.txt: a is in another list too"),
        ({"train.txt": b"", "val.txt": b"\n"}, r"train\.txt is empty, and no other list names a panorama"),
    ],
)
def test_bad_folders(root, files, message):
    write(root, files)
    with pytest.raises(ValueError, match=message):
        FolderDataModule(root)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("picture\na.png\n", "needs a first line with the column image"),
        ("image,split\nimages/a.png,training\n", "line 2: every panorama needs"),
        ("image\nimages/a.png\nimages/a.png\n", "line 3: every panorama needs"),
        ("image\n", "lists no panorama"),
    ],
)
def test_bad_tables(root, table, message):
    write(root, {"table.csv": table.encode()})
    with pytest.raises(ValueError, match=message):
        FolderDataModule(root, table="table.csv")


def test_missing_things(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        FolderDataModule(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no panoramas in images/ .* it holds own/: pass the folder"):
        FolderDataModule(tmp_path)
    with pytest.raises(FileNotFoundError, match="no table at"):
        FolderDataModule(root, table="nothing.csv")
    (root / "classes.yaml").unlink()
    for options in ({}, {"tasks": ["semseg", "depth"]}, {"tasks": ["depth"], "classes_file": "mine.yaml"}):
        with pytest.raises(FileNotFoundError, match="no names of classes"):
            FolderDataModule(root, **options)
    assert FolderDataModule(root, tasks=["depth"], **SIZE).dataset("train")[0].keys() == {"image", "depth", "id"}
    assert FolderDataModule(root, tasks=[], **SIZE).dataset("predict")[0].keys() == {"image", "id"}
    with pytest.raises(ValueError, match="val_fraction and test_fraction must not be negative"):
        FolderDataModule(root, val_fraction=0.6, test_fraction=0.4)
    with pytest.raises(ValueError, match="val_fraction and test_fraction must not be negative"):
        FolderDataModule(root, val_fraction=float("nan"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"depth/a.png": png(np.ones((32, 64), np.uint8))}, "8-bit or colour"),
        ({"depth/a.png": png(np.ones((16, 32), np.uint16))}, "is 32 x 16 pixels, but its panorama is 64 x 32"),
        ({"semseg/a.png": png(np.full((32, 64), 13, np.uint8))}, r"the labels \[13\], which the set does not have"),
        ({"semseg/a.png": png(np.full((32, 64, 3), 7, np.uint8))}, r"the colours \(7, 7, 7\), which no class has"),
        ({"semseg/a.png": png(np.full((32, 64), 7, np.uint16))}, "wide numbers .mode I"),
        ({"semseg/a.png": jpeg(np.full((32, 64), 7, np.uint8))}, "it is a JPEG image, but labels are PNG"),
        (
            {"semseg/a.png": png(np.full((32, 64), 1, np.uint8), S3DIS_PALETTE[[0, 9, 1]])},
            r"its palette shows the number 1 in \(227, 60, 130\), the colour of class 9: store the colours as RGB",
        ),
        ({"images/a.png": png(np.zeros((32, 50, 3), np.uint8))}, "cannot be used: it is 50 x 32"),
        ({"images/a.png": b"nothing"}, "truncated or not an image"),
    ],
)
def test_bad_files_are_named(root, files, message):
    write(root, files)
    with pytest.raises(ValueError, match=message) as error:
        FolderDataModule(root, **SIZE).dataset("train")[0]
    assert str(root / next(iter(files))) in str(error.value)


@pytest.mark.parametrize(("role", "array"), [("depth", np.ones((32, 64), int)), ("normals", np.ones((32, 64)))])
def test_arrays_of_another_kind_are_refused(root, role, array):
    write(root, {f"{role}/b.npy": npy(array)})
    with pytest.raises(ValueError, match=rf"{role}/b\.npy cannot be used: it holds .* instead of floating point"):
        FolderDataModule(root, **SIZE).dataset("train")[1]


def test_labels_of_another_kind_of_file_are_told(root):
    (root / "depth" / "d.tif").write_bytes(b"metres")
    with pytest.warns(UserWarning, match=r"1 files in .*depth are ignored, such as d\.tif: expected \.png, \.npy"):
        FolderDataModule(root, **SIZE)


def test_images_have_any_suffix_that_is_predicted_for(root, rooms, check_sample):
    write(root, {"images/e.JFIF": jpeg(rooms[1]["image"]), "depth/e.png": (root / "depth/a.png").read_bytes()})
    data = FolderDataModule(root, **SIZE).dataset("predict")
    assert [data.name(i) for i in range(len(data))] == ["a", "b", "c.c", "d", "e"]
    check_sample(data[4], {"image": rooms[1]["image"]}, 0, 0, image_step=80)


def test_images_that_are_not_used_are_told(root, rooms):
    picture = png(rooms[1]["image"])
    write(root, {f"images/{name}": picture for name in ("f.dng", "more/g.png", "more/deep/h.png", ".more/i.png")})
    write(root, {"images/more/.hidden.png": picture, "images/._a.png": picture, "images/notes.txt": b"not an image"})
    with pytest.warns(UserWarning, match=r"4 files in .*images are ignored, such as f\.dng: .* not in a sub-folder"):
        assert len(FolderDataModule(root, **SIZE).dataset("predict")) == 4


def test_an_original_or_a_preview_beside_a_panorama_is_not_used(root, rooms, check_sample):
    write(root, {"images/a.gif": b"preview", "images/b.heic": b"original"})
    with pytest.warns(UserWarning, match=r"2 files in .*images are ignored, such as a\.gif: .* one for each panorama"):
        samples = FolderDataModule(root, **SIZE).dataset("train")
    check_sample(samples[0], rooms[0], depth_step=0.00051, normals_step=0.01)


def test_depth_that_was_too_far_for_its_file_is_not_measured(root, rooms):
    steps = (rooms[0]["depth"] * 1000).round().astype(np.uint16)
    steps[5, 6:9] = 65535, 65534, 0
    write(root, {"depth/a.png": png(steps)})
    depth = FolderDataModule(root, **SIZE).dataset("train")[0]["depth"]
    assert depth[5, 6:9].tolist() == [0, float(np.float32(65.534)), 0]


def test_normals_that_are_no_directions_are_not_measured(root, rooms):
    """Black as in many files of others, nearly the middle grey, and vectors of which only a part is a number."""
    stored = (128 + 127 * rooms[0]["normals"]).round().astype(np.uint8)
    stored[3, :2] = [[0, 0, 0], [130, 127, 128]]
    vectors = rooms[1]["normals"].copy()
    vectors[3, :2] = [[np.nan, 0, 1], [0, np.inf, 0]]
    write(root, {"normals/a.png": png(stored), "normals/b.npy": npy(vectors)})
    for sample, room in zip(FolderDataModule(root, **SIZE).dataset("train"), rooms, strict=False):
        normals = sample["normals"].permute(1, 2, 0).numpy()
        assert (normals[3, :2] == 0).all()
        assert np.abs(normals - room["normals"])[4:].max() <= 0.01


def test_labels_in_a_palette_of_other_colours_are_numbers(root, rooms):
    """A palette says something of the classes only where it has their colours."""
    colors = np.arange(13 * 3, dtype=np.uint8).reshape(13, 3) + 7
    write(root, {"semseg/a.png": png(rooms[0]["semseg"], colors)})
    assert np.array_equal(FolderDataModule(root, **SIZE).dataset("train")[0]["semseg"].numpy(), rooms[0]["semseg"])


def test_a_colour_of_two_classes_says_nothing(root):
    entries = [{"name": name, "color": [9, 9, 9 + max(i - 1, 0)]} for i, name in enumerate(S3DIS_CLASSES)]
    pixels = np.full((32, 64, 3), 9, np.uint8)
    write(root, {"classes.yaml": yaml.safe_dump({"classes": entries}).encode(), "semseg/a.png": png(pixels)})
    with pytest.raises(ValueError, match=r"the colours \(9, 9, 9\), which two classes have"):
        FolderDataModule(root, **SIZE).dataset("train")[0]


NAMES = (
    *("yes", "no", "on", "off", "true", "null", "~", "010", "1_0", "1e3", "12:30", "n"),
    *("2020-01-01", "0x1f", "café", "wall"),
)


@pytest.mark.parametrize("form", ["{}", "{{name: {}}}", "{{name: {}, color: [{i}, 2, 3]}}"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_names_of_classes_are_what_stands_there(root, form, mark):
    """YAML would make booleans, nothing, numbers and dates of them."""
    entries = ", ".join(form.format(name, i=i) for i, name in enumerate(NAMES))
    write(root, {"classes.yaml": mark + f"classes: [{entries}]".encode()})
    data = FolderDataModule(root, tasks=["depth"])
    assert data.classes == NAMES
    assert data.palette.shape == (len(NAMES), 3)
    if "color" in form:
        assert data.palette.tolist() == [[i, 2, 3] for i in range(len(NAMES))]


def test_a_byte_order_mark_is_no_part_of_a_name(root):
    mark = b"\xef\xbb\xbf"
    write(
        root,
        {
            "train.txt": mark + b"a\r\nb\r\n",
            "val.txt": mark + b"c.c",
            "exclude.txt": mark + b"a\r\n",
            "table.csv": mark + b"image,depth\r\nimages/c.c.png,depth/c.c.png\r\n",
        },
    )
    data = FolderDataModule(root, exclude=root / "exclude.txt")
    assert [data.dataset("train").name(i) for i in range(len(data.dataset("train")))] == ["b"]
    assert data.dataset("val").name(0) == "c.c"
    assert FolderDataModule(root, table="table.csv").dataset("train").name(0) == "c.c"


@pytest.mark.parametrize("name", ["train.txt", "exclude.txt", "classes.yaml", "table.csv"])
def test_text_of_another_encoding_is_named(root, name):
    write(root, {"exclude.txt": b"a", "table.csv": b"image\nimages/a.png", name: "a é".encode("utf-16")})
    with pytest.raises(ValueError, match=rf"{name}.* is not ") as told:
        FolderDataModule(root, exclude=root / "exclude.txt", table="table.csv" if name == "table.csv" else None)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classes.yaml": b"classes: " + b"[" * 500 + b"]" * 500}, r"classes\.yaml is nested more than 64"),
        ({"classes.yaml": b"classes: " + b"- " * 50_000}, r"classes\.yaml is "),
        ({"classes.yaml": b"a: &a [" + b"x," * 9000 + b"]\nclasses: [" + b"*a," * 100 + b"]"}, "repeats itself"),
        ({"classes.yaml": "classes: [Tür]".encode("latin-1")}, r"classes\.yaml is not UTF-8"),
        ({"train.txt": "Küche".encode("latin-1")}, r"train\.txt is not UTF-8"),
    ],
)
def test_lists_that_cannot_be_read_are_named(root, files, message):
    write(root, files)
    with pytest.raises(InputError, match=message):
        FolderDataModule(root)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"image\n" + b"x" * 200_000 + b"\n", r"table\.csv, line 2, is not CSV \(field larger"),
        ("image\nimages/Küche.png\n".encode("latin-1"), r"table\.csv is not UTF-8 text"),
        (b'image\n"images/a.png\nimages/b.png\n' + b"x" * 200_000, r"table\.csv, line \d+, is not CSV"),
        (b"image\nimages/a.png,images/b.png\n", r"table\.csv, line 2, has more cells"),
        (b"image\n\nimages/a.png\n\nimages/a.png\n", r"table\.csv, line 5: every panorama needs"),
    ],
)
def test_tables_that_cannot_be_read_are_named(root, table, message):
    write(root, {"table.csv": table})
    with pytest.raises(ValueError, match=message):
        FolderDataModule(root, table="table.csv")


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (30_000, 5_000), (32, 65)])
def test_an_array_that_claims_more_than_it_holds_is_left_out(root, shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    write(root, {"depth/b.npy": buffer.getvalue() + bytes(32 * 64 * 4)})
    first, second = FolderDataModule(root, **SIZE, on_error="skip").dataset("train").__getitems__([0, 1])
    assert "depth" in first and "depth" not in second and "normals" in second
    with pytest.raises(ValueError, match=r"depth/b\.npy cannot be used: it"):
        FolderDataModule(root, **SIZE).dataset("train")[1]
