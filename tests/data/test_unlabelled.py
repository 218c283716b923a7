import json

import fake_unlabelled
import numpy as np
import pytest
from fake_files import write, write_zip
from fake_unlabelled import decoded
from PIL import ExifTags, Image
from tagged_files import tagged

from mtpano_zoo.cli import main
from mtpano_zoo.data import GeneratedDataModule, SUN360DataModule, ZInDDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Window

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture
def zind(tmp_path):
    write(tmp_path / "zind", fake_unlabelled.zind())
    return tmp_path / "zind"


@pytest.fixture
def generated(tmp_path):
    write(tmp_path / "generated", fake_unlabelled.generated())
    return tmp_path / "generated"


def ids(data, split):
    return [data.dataset(split).name(i) for i in range(len(data.dataset(split)))]


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_zind_is_read_for_prediction(kind, tmp_path, zind, check_sample):
    if kind == "zip":
        zind = tmp_path / "zipped"
        zind.mkdir()
        write_zip(zind / "zind.zip", fake_unlabelled.zind())
    data = ZInDDataModule(zind, height=32, width=64)
    samples = data.dataset("predict")
    assert len(samples) == len(data.dataset("train")) == len(fake_unlabelled.ZIND)
    numbers = {f"{home}_{name}": number for (home, name), (number, _) in fake_unlabelled.ZIND.items()}
    for sample in samples:
        check_sample(sample, {"image": decoded(numbers.pop(sample["id"]))}, 0, 0)
    assert not numbers
    assert sum(len(batch["id"]) for batch in data.predict_dataloader()) == len(samples)


def test_a_crop_is_not_taken_for_a_full_panorama(generated):
    image = generated / "images/000000.png"
    pixels = np.asarray(Image.open(image))
    height, width = pixels.shape[:2]
    tagged(image, pixels, Window(height // 2, width // 2, height, width, 2 * height, 2 * width))
    data = GeneratedDataModule(generated)
    with pytest.raises(InputError, match=f"000000.png cannot be used: by its GPano tags it is a crop .* {2 * width} x"):
        data.dataset("predict")[0]


def test_partition_of_zind(zind):
    (zind / "zind_partition.json").write_text(fake_unlabelled.PARTITION, encoding="utf-8-sig")
    data = ZInDDataModule(zind, partition="zind_partition.json")
    assert len(ids(data, "train")) == 3
    assert ids(data, "val") == ["919_floor_01_partial_room_01_pano_1"]
    assert len(ids(data, "predict")) == 4  # without the home that is in no split
    with pytest.raises(ValueError, match="none for test"):
        data.dataset("test")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": ["a"], "val": [], "test": []}', '{"train": 3}'])
def test_other_partition_is_refused(zind, text):
    (zind / "p.json").write_text(text)
    with pytest.raises(ValueError, match=r"p\.json (does not list the homes|is not JSON)"):
        ZInDDataModule(zind, partition="p.json")
    with pytest.raises(FileNotFoundError, match=r"no partition of the homes at .*q\.json"):
        ZInDDataModule(zind, partition="q.json")


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_primary_panoramas_of_zind(kind, tmp_path, zind):
    if kind == "zip":
        zind = tmp_path / "zipped"
        zind.mkdir()
        write_zip(zind / "zind.zip", fake_unlabelled.zind())
    expected = sorted(f"{home}_{name}" for (home, name), (_, primary) in fake_unlabelled.ZIND.items() if primary)
    assert sorted(ids(ZInDDataModule(zind, primary=True), "predict")) == expected


@pytest.mark.parametrize("text", ["{", "{}", '{"merger": []}', '{"merger": {"floor_01": {"a": {"b": {"c": {}}}}}}'])
def test_tour_that_tells_nothing(zind, text):
    (zind / "000/zind_data.json").write_text(text)
    with pytest.raises(ValueError, match=r"000/zind_data\.json does not say"):
        ZInDDataModule(zind, primary=True).dataset("predict")


@pytest.mark.parametrize("kind", ["tree", "inside", "zip"])
@pytest.mark.parametrize(("size", "count", "shift"), [("1024x512", 3, 0), ("9104x4552", 2, 5)])
def test_sun360(kind, size, count, shift, tmp_path, check_sample):
    folder = tmp_path / "sun"
    if kind == "zip":
        folder.mkdir()
        write_zip(folder / "sun360.zip", fake_unlabelled.sun360())
    else:
        write(folder, fake_unlabelled.sun360())
    root = folder / f"pano{size}" if kind == "inside" else folder
    samples = SUN360DataModule(root, height=32, width=64, size=size).dataset("predict")
    numbers = {name.replace("/", "_"): number for name, number in fake_unlabelled.SUN360.items()}
    assert len(samples) == count
    assert len({sample["id"] for sample in samples}) == count
    for sample in samples:
        check_sample(sample, {"image": decoded(numbers[sample["id"]] + shift)}, 0, 0)


def test_unknown_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="size is 1024x512 or 9104x4552"):
        SUN360DataModule(tmp_path, size="512x256")


def test_generated_panoramas_have_their_texts(generated, check_sample):
    data = GeneratedDataModule(generated, height=32, width=64)
    samples = data.dataset("predict")
    kinds = ["PNG", "JPEG", "WEBP"]
    for i, (sample, text) in enumerate(zip(samples, fake_unlabelled.GENERATED.values(), strict=True)):
        check_sample(sample, {"image": decoded(i, kinds[i])}, 0, 0)
        assert data.prompts[sample["id"]] == text
    assert ids(data, "predict") == ["000000", "000001", "dune"]


def test_images_are_turned_upright(generated):
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16] = 255
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    Image.fromarray(upright[::-1, ::-1]).save(generated / "images/000001.jpg", exif=turned)
    image = GeneratedDataModule(generated, height=32, width=64).dataset("predict")[1]["image"]
    assert image[:, :8].mean() > 0.9 and image[:, -8:].mean() < 0.1


def test_texts_are_what_stands_in_the_file(tmp_path, generated):
    """A byte order mark is no text, and of all characters that may end a line only the line feed does."""
    captions = ["one\u2028two\x0bthree\x85four", "", "\u2029"]
    rows = [{"image": f"images/{i}.png", "caption": text} for i, text in enumerate(captions)]
    rows.append({"image": "images/3.png", "caption": None})
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (generated / "other.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = GeneratedDataModule(generated, table="other.jsonl")
    assert data.prompts == dict(zip("0123", [*captions, ""], strict=True))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1, is not JSON"),
        (['{"image": "a.png"}', "[]"], "line 2: not of the form"),
        (['{"caption": "no image"}'], "line 1: not of the form"),
        (['{"image": "a.png", "caption": 3}'], "line 1: not of the form"),
        (['{"image": "a.png"}', '{"image": "b/a.jpg"}'], r"line 2: 'b/a\.jpg' is not an image, or has the name"),
        (["", ""], "names no image"),
    ],
)
def test_other_texts_are_refused(tmp_path, lines, message):
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"texts\.jsonl.*{message}"):
        GeneratedDataModule(tmp_path, table="texts.jsonl")


def test_missing_texts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"at .*prompts\.jsonl"):
        GeneratedDataModule(tmp_path)


def test_image_that_is_listed_but_not_there_is_named(generated):
    with (generated / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"image": "images/gone.png", "caption": ""}))
    with pytest.raises(ValueError, match=r"images/gone\.png cannot be used: No such file"):
        GeneratedDataModule(generated).dataset("predict")[3]


def test_no_labels_are_offered(zind):
    with pytest.raises(ValueError, match="has no depth, only images"):
        ZInDDataModule(zind, tasks=["depth"])


@pytest.mark.parametrize("name", ["zind", "generated"])
def test_command_line(name, request):
    assert main(["data", "verify", "--data", name, "--root", str(request.getfixturevalue(name))]) == 0


DEEP = "[" * 100_000 + "]" * 100_000


def test_a_tour_that_cannot_be_read_is_named_or_left_out(zind):
    homes = sorted({home for home, _ in fake_unlabelled.ZIND})
    (zind / homes[0] / "zind_data.json").write_text(DEEP)
    with pytest.raises(InputError, match=rf"{homes[0]}/zind_data\.json does not say .* nested more than 64"):
        ZInDDataModule(zind, primary=True).dataset("predict")
    with pytest.warns(UserWarning, match=rf"left out: .*{homes[0]}/zind_data\.json does not say"):
        left = ids(ZInDDataModule(zind, primary=True, on_error="skip"), "predict")
    primary = {f"{home}_{name}" for (home, name), (_, first) in fake_unlabelled.ZIND.items() if first}
    assert set(left) == {name for name in primary if not name.startswith(f"{homes[0]}_")} != set()


@pytest.mark.parametrize("text", [DEEP, '{"train": [1e400], "val": [], "test": []}'])
def test_a_partition_that_cannot_be_read_is_named(zind, text):
    (zind / "p.json").write_text(text)
    with pytest.raises(ValueError, match=r"p\.json "):
        ZInDDataModule(zind, partition="p.json")


def test_captions_may_hold_any_character_and_the_file_a_byte_order_mark(generated):
    captions = ["one\u2028line", "next\x85line", "page\x0cbreak", "\u2029"]
    lines = [json.dumps({"image": f"{i}.png", "caption": text}, ensure_ascii=False) for i, text in enumerate(captions)]
    (generated / "prompts.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert list(GeneratedDataModule(generated).prompts.values()) == captions


def test_captions_that_cannot_be_read_are_named(generated):
    for content, message in ((DEEP.encode(), "line 1, is nested"), (b'{"image": "caf\xe9"}', "is not UTF-8")):
        (generated / "prompts.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=rf"prompts\.jsonl.* {message}"):
            GeneratedDataModule(generated)
