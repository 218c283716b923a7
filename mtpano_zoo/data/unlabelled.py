"""Sets of panoramas without labels, for prediction or for teachers to label: ZInD, SUN360, generated ones."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mtpano_zoo.data.index import Index, index_rows
from mtpano_zoo.data.panoramas import SPLITS, PanoramaDataModule, Split
from mtpano_zoo.data.reading import UNREADABLE, Decoder, reason_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import decode_full_panorama
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.text_files import parse_json, read_json, read_json_lines

__all__ = ("GeneratedDataModule", "SUN360DataModule", "UnlabelledDataModule", "ZInDDataModule")


class UnlabelledDataModule(PanoramaDataModule):
    """Base of sets without labels: all panoramas are in ``predict``, and in ``train`` unless a set splits them."""

    decoders: Mapping[str, Decoder] = {"image": decode_full_panorama}

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return ``train`` for all."""
        return "train"

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in a split; all samples of a split are in ``predict`` too."""
        return self.split_of(fields) is not None if split == "predict" else super().belongs(i, fields, split)


class ZInDDataModule(UnlabelledDataModule):
    """Zillow Indoor Dataset (Cruz et al., CVPR 2021): 67,448 panoramas of 2048 x 1024 from 1,575 unfurnished homes.

    There are layouts of rooms, but neither classes nor depth nor normals. 33,210 panoramas are primary, from which a
    room's layout was drawn; the others see the same rooms from elsewhere.

    Get it: request an account from the owner (github.com/zillow/zind), for academic, non-commercial use;
    about 40 GB. The terms of the set apply.

    Expected below the root::

        000/panos/floor_01_partial_room_01_pano_14.jpg    8-bit RGB; homes have 3 or 4 digits
            zind_data.json                                read only for the list of primary panoramas

    Args:
        root: Folder that holds the homes, unpacked or in zip files.
        partition: `zind_partition.json` of the owner's repository, absolute or relative to the root: the homes for
            training (1,260), validation (157) and test (158).
        primary: Only the primary panoramas.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: If there is no such root or partition.
        InputError: If the partition has another form.

    Cite: S. Cruz, W. Hutchcroft, Y. Li, N. Khosravan, I. Boyadzhiev, S. B. Kang, "Zillow Indoor Dataset: Annotated
    Floor Plans With 360 Panoramas and 3D Room Layouts", CVPR 2021.
    """

    id_pattern = "{home}_{name}"
    complete = 67448
    expressions: Mapping[str, str] = {"home": r"\d{3,4}", "name": r"floor_[^/]+_pano_\d+"}

    def __init__(
        self, root: str | Path, *, partition: str | Path | None = None, primary: bool = False, **options: Any
    ) -> None:
        self.files: Mapping[str, tuple[str, ...]] = {"image": ("{home}/panos/{name}.jpg",)}
        if primary:
            self.files = {**self.files, "tour": ("{home}/zind_data.json",)}
        super().__init__(root, **options)
        self.splits = None if partition is None else _read_partition(self.root / user_path(partition))
        self._primary: dict[str, frozenset[str]] = {}

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the split of the home; None if the partition lacks it."""
        return "train" if self.splits is None else self.splits.get(int(fields["home"]))

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in a split and, with `primary`, is primary."""
        if not super().belongs(i, fields, split):
            return False
        if "tour" not in self.files:
            return True
        if fields["home"] not in self._primary:
            self._primary[fields["home"]] = self._primary_names(i)
        return fields["name"] in self._primary[fields["home"]]

    def _primary_names(self, i: int) -> frozenset[str]:
        try:
            floors = parse_json(self.index.read("tour", i)[0], "it")["merger"].values()
            panos = [p for floor in floors for room in floor.values() for part in room.values() for p in part.values()]
            return frozenset(Path(pano["image_path"]).stem for pano in panos if pano["is_primary"])
        except (*UNREADABLE, TypeError, AttributeError) as error:
            message = f"{self.index.describe('tour', i)} does not say which panoramas are primary"
            if self.on_error == "raise":
                raise InputError(f"{message} ({reason_of(error)})") from error
            warnings.warn(f"left out: {message} ({reason_of(error)})", stacklevel=2)
            return frozenset()


def _read_partition(path: Path) -> dict[int, Split]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no partition of the homes at {path}")
    homes = read_json(path)
    try:
        return {int(home): split for split in SPLITS for home in homes[split]}
    except (*UNREADABLE, TypeError) as error:
        raise InputError(
            f"{path} does not list the homes of train, val and test, as zind_partition.json does"
        ) from error


class SUN360DataModule(UnlabelledDataModule):
    """SUN360 (Xiao et al., CVPR 2012): panoramas of indoor and outdoor places, in folders by the kind of place.

    The owner's site is closed and the set is no longer distributed, for copyright reasons; this reads copies that
    exist. The paper is said to count 67,583 panoramas of 80 kinds, which was not confirmed; MTPano used 34,300.

    Expected below the root, unpacked or in zip files (inferred from descriptions of copies)::

        pano1024x512/indoor/bedroom/pano_aaaaaaaaaaaaaa.jpg    8-bit RGB; indoor, outdoor; or pano9104x4552

    Args:
        root: Folder that holds `pano1024x512` or `pano9104x4552`, or is it.
        size: Which of the two.
        options: See `PanoramaDataModule`.

    Cite: J. Xiao, K. A. Ehinger, A. Oliva, A. Torralba, "Recognizing scene viewpoint using panoramic place
    representation", CVPR 2012.
    """

    id_pattern = "{place}_{kind}_{name}"
    files: Mapping[str, tuple[str, ...]] = {"image": ("{place}/{kind}/{name}.jpg",)}
    expressions: Mapping[str, str] = {"place": "indoor|outdoor"}

    def __init__(
        self, root: str | Path, *, size: Literal["1024x512", "9104x4552"] = "1024x512", **options: Any
    ) -> None:
        if size not in ("1024x512", "9104x4552"):
            raise InputError(f"size is 1024x512 or 9104x4552, not {size!r}")
        super().__init__(root, **options)
        self.prefix = f"pano{size}/"


class GeneratedDataModule(UnlabelledDataModule):
    """Panoramas that a network generated from texts, such as DiT360 (1024 x 2048) or HunyuanWorld (960 x 1920).

    MTPano trained on 76,200 to 177,000 panoramas of DiT360 and 100,000 of HunyuanWorld, which are not public: generate
    your own. For images without texts use `FolderDataModule`.

    Expected below the root: the images, and a text file with one line per image in JSON, as DiT360 is trained with::

        prompts.jsonl    {"image": "images/000000.png", "caption": "A library with tall windows."}

    `caption` may also be called `prompt`; other entries do not matter. Images are 8-bit PNG, JPEG or WebP. `prompts`
    has the text of a sample by its id, which is the name of the image without folder and extension.

    Args:
        root: Folder of the images.
        table: The text file, absolute or relative to the root.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: If there is no such root or text file.
        InputError: If a line of it has another form, or two images have the same name.
    """

    id_pattern = "{name}"
    files: Mapping[str, tuple[str, ...]] = {"image": ("{image}",)}

    def __init__(self, root: str | Path, *, table: str | Path = "prompts.jsonl", **options: Any) -> None:
        super().__init__(root, **options)
        self.prompts: dict[str, str] = {}
        self._rows: list[dict[str, str]] = []
        path = self.root / user_path(table)
        if not path.is_file():
            raise FileNotFoundError(f"there is no list of images and texts at {path}")
        for number, entry in read_json_lines(path):
            try:
                image, text = entry["image"], entry.get("caption", entry.get("prompt")) or ""
                if not (isinstance(image, str) and isinstance(text, str)):
                    raise TypeError("no text")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f'{path}, line {number}: not of the form {{"image": ..., "caption": ...}}') from error
            name = Path(image).stem
            if not name or name in self.prompts:
                raise InputError(f"{path}, line {number}: {image!r} is not an image, or has the name of another one")
            self.prompts[name] = text
            self._rows.append({"image": image, "name": name})
        if not self._rows:
            raise InputError(f"{path} names no image")

    def find(self) -> Index:
        """Return the panoramas that the text file lists."""
        return index_rows(self.root, self.files, self._rows)
