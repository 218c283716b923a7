"""Files below a root: an unpacked tree, the members of zip files, or both seen as one tree."""

import os
import re
import string
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mtpano_zoo.data.reading import UNREADABLE, reason_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_IN_ARCHIVE, check_bytes, max_bytes, read_file

__all__ = ("MISSING", "PLAIN", "Place", "Source", "compile_pattern", "field_names", "list_archive", "list_tree")

# Place of a file: number of its archive, offset of its member, packed and unpacked length, compression method, CRC.
Place = tuple[int, int, int, int, int, int]
PLAIN: Place = (-1, 0, 0, 0, 0, 0)
MISSING: Place = (-2, 0, 0, 0, 0, 0)

_LOCAL_HEADER = struct.Struct("<4s22sHH")  # signature, ..., lengths of name and extra field


def field_names(pattern: str) -> list[str]:
    """Return the names of the fields ``{name}`` of a path pattern, in order.

    Example:
        >>> field_names("area_{area}/pano/rgb/{name}_rgb.png")
        ['area', 'name']
    """
    return [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]


def compile_pattern(pattern: str, expressions: Mapping[str, str]) -> re.Pattern[str]:
    """Compile a path pattern such as ``area_{area}/pano/rgb/{name}_rgb.png``.

    A field matches its regular expression in `expressions`, by default any text within one folder or file name that
    does not begin with a dot, as hidden files do; named twice, it must be the same text both times.

    Example:
        >>> compile_pattern("area_{area}/{name}.png", {}).fullmatch("area_3/hall.png").groupdict()
        {'area': '3', 'name': 'hall'}
    """
    parts: list[str] = []
    seen: set[str] = set()
    for literal, name, _, _ in string.Formatter().parse(pattern):
        parts.append(re.escape(literal))
        if name is not None:
            expression = expressions.get(name, "[^/.][^/]*")
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{expression})")
            seen.add(name)
    return re.compile("".join(parts))


@dataclass
class Source:
    """Reader of files by place; each process opens handles of archives when it first needs them.

    Args:
        folder: The tree.
        archives: The zip files; places refer to them by index.
    """

    folder: Path
    archives: list[Path]
    _handles: dict[tuple[int, int], BinaryIO] = field(default_factory=dict, repr=False)

    def read(self, name: str, place: Place) -> bytes:
        """Return the content of a file.

        Raises:
            InputError: If it is too large, or the member of an archive is damaged.
            OSError: If the file cannot be read.
        """
        archive, offset, size, unpacked, method, crc = place
        if archive < 0:
            return read_file(self.folder / name)
        check_bytes(max(size, unpacked), max_bytes(BYTES_IN_ARCHIVE), "it")
        handle = self._open(archive)
        if not 0 <= offset <= os.fstat(handle.fileno()).st_size - size:
            raise InputError("the archive is damaged: it ends before the place that its directory states")
        handle.seek(offset)
        header = handle.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise InputError("the archive is damaged: there is no member at the place that its directory states")
        _, _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        handle.seek(name_length + extra_length, os.SEEK_CUR)
        data = handle.read(size)
        if method == zipfile.ZIP_DEFLATED:
            data = _inflate(data, unpacked)
        if zlib.crc32(data) != crc:
            raise InputError("its checksum (CRC) does not match: download or copy the archive again")
        return data

    def describe(self, name: str, place: Place) -> str:
        """Return a readable name of a file: its path, or its archive and the path in it."""
        return str(self.folder / name) if place[0] < 0 else f"{self.archives[place[0]]}, member {name}"

    def _open(self, archive: int) -> BinaryIO:
        key = (os.getpid(), archive)  # a forked process that used its parent's handle would move the parent's position
        if key not in self._handles:
            self._handles[key] = self.archives[archive].open("rb")
        return self._handles[key]

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "archives": self.archives, "_handles": {}}


def _inflate(data: bytes, size: int) -> bytes:
    """Decompress to the given size, and stop there if there is more."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacking.decompress(data, size + 1)
    except zlib.error as error:
        raise InputError(f"its compressed data is damaged ({error})") from error
    if len(content) != size or not unpacking.eof:
        raise InputError("its compressed data is damaged (it is longer or shorter than the directory says)")
    return content


def list_tree(
    folder: Path, patterns: Iterable[str], expressions: Mapping[str, str]
) -> tuple[list[str], dict[str, int]]:
    """List the files below a folder that fit a pattern, without scanning folders that cannot hold any.

    Returns:
        Their names relative to the folder, and the modification time in ns of every folder that was scanned.
    """
    names: list[str] = []
    times: dict[str, int] = {}
    segments = [[compile_pattern(part, expressions) for part in pattern.split("/")] for pattern in patterns]

    def walk(relative: str, wanted: list[list[re.Pattern[str]]]) -> None:
        times[relative] = (folder / relative).stat().st_mtime_ns
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                matching = [parts for parts in wanted if parts[0].fullmatch(entry.name)]
                if any(len(parts) == 1 for parts in matching):
                    names.append(relative + entry.name)
                deeper = [parts[1:] for parts in matching if len(parts) > 1]
                if deeper and entry.is_dir():
                    walk(f"{relative}{entry.name}/", deeper)

    if folder.is_dir():
        walk("", segments)
    return names, times


def list_archive(path: Path, number: int, prefix: str, wanted: re.Pattern[str]) -> dict[str, Place]:
    """List the members of a zip file that fit an expression once the leading folder `prefix` is removed.

    Raises:
        InputError: If it is not a complete zip file, or a member is encrypted or neither stored nor deflated.
        OSError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(f"{path} is not a complete zip file ({reason_of(error)}): download it again") from error
    places: dict[str, Place] = {}
    for member in members:
        name = member.filename.removeprefix(prefix)
        if wanted.fullmatch(name):
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path}: {member.filename} is encrypted or in a rare compression: unpack the archive")
            sizes = (member.compress_size, member.file_size)
            places[name] = (number, member.header_offset, *sizes, member.compress_type, member.CRC)
    return places
