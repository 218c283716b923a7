"""Download files from the Hugging Face Hub, verify them, and record where they came from."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, get_session, get_token, hf_hub_download, try_to_load_from_cache

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.proxy import PROXIES, explain_proxy, set_variables
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.resources import cache_folder
from mtpano_zoo.text_files import read_json
from mtpano_zoo.zoo.entries import Entry

__all__ = ("commit_of", "download", "fetch", "known_checksum", "verify")

COMMIT, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
# The client makes folders and files of such names; none of them leads out of its cache.
NAME = re.compile(r"[\w.+@=-]+(/[\w.+@=-]+)*")
HUB_TIMEOUT = 5  # seconds to wait for any answer from the Hub


def fetch(entry: Entry, cached_only: bool = False) -> tuple[Path, str]:
    """Return the file of an entry and its SHA-256, from the cache of the Hub's client or from the Hub.

    If `checkpoints.yaml` names no revision or checksum, those of the first use are recorded and required from then on:
    neither a new commit nor other content can replace what was loaded once.

    Args:
        entry: what is published.
        cached_only: send no request.

    Raises:
        OSError: If the file is not there and cannot be downloaded; the message says what to do.
        InputError: If its checksum is wrong.
    """
    revision = entry.revision or _record(entry).get("revision")
    example = f'pass its path instead of the name: load_model("/path/to/{Path(entry.file).name}")'
    path = download(entry.repository, entry.file, revision, example, cached_only)
    found = verify(path, known_checksum(entry))
    if entry.revision is None or entry.sha256 is None:
        record = {"revision": commit_of(path), "sha256": found, "size": path.stat().st_size}
        if record != _record(entry):
            _keep(_record_path(entry), json.dumps(record, indent=2) + "\n")
    return path, found


def known_checksum(entry: Entry) -> str | None:
    """Return the SHA-256 that the file of an entry should have, or None if it is not known yet."""
    return entry.sha256 or _record(entry).get("sha256")


def _record_path(entry: Entry) -> Path:
    return cache_folder() / entry.name / "origin.json"


def _record(entry: Entry) -> dict[str, Any]:
    """Return the record of the first download, if it has the form that `fetch` writes; else an empty one."""
    try:
        record = read_json(_record_path(entry))
        if COMMIT.fullmatch(record["revision"]) and SHA256.fullmatch(record["sha256"]):
            return dict(record)
    except (OSError, ValueError, TypeError, LookupError):
        pass
    return {}


def _keep(path: Path, text: str) -> None:
    """Write a note to the cache; a failure is ignored, because it only means that work is repeated."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError:
        return


def download(
    repository: str,
    file: str,
    revision: str | None = None,
    by_hand: str | None = None,
    cached_only: bool = False,
) -> Path:
    """Return a file of a repository from the cache of the Hub's client, or download it with a progress bar.

    Args:
        repository: `user/name`.
        file: its path in the repository.
        revision: commit, tag or branch. If omitted, the newest commit. A commit that is in the cache needs no request.
        by_hand: what to do with the file if it has to be fetched in another way, for the message.
        cached_only: send no request.

    Raises:
        OSError: If the file is not in the cache and cannot be downloaded; the message says what to do.
        InputError: If `repository`, `file` or `revision` is not a valid name.
    """
    for what, name in (("file", file), ("revision", revision)):
        if name is not None and (not NAME.fullmatch(name) or {".", ".."} & set(name.split("/")) or ".." in name):
            raise InputError(f"{name!r} is not a valid {what} name in {repository} on the Hugging Face Hub.")
    with _explained(repository, file, revision, by_hand or "pass the path of its folder instead of the name"):
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str) and (cached_only or COMMIT.fullmatch(revision or "")):
            return Path(cached)
        unreachable = cached_only or (not isinstance(cached, str) and not _reachable())
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=unreachable))


def _reachable() -> bool:
    """Return whether the Hub answers at all; if it does not, its client would retry again and again."""
    if constants.HF_HUB_OFFLINE:
        return True  # the client checks this itself
    session = get_session()
    try:
        session.head(constants.ENDPOINT, timeout=HUB_TIMEOUT, follow_redirects=False)
    except Exception:  # the type depends on the HTTP client that the Hub's client uses
        return False
    return True


def commit_of(path: Path) -> str:
    """Return the commit that a file of the client's cache belongs to."""
    parts = path.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


@contextmanager
def _explained(repository: str, file: str, revision: str | None, by_hand: str) -> Iterator[None]:
    """Turn errors of the Hub's client into one sentence that says what to do."""
    at = f" at {revision}" if revision else ""
    checked = " and ".join(filter(None, ["the connection", set_variables(("HF_ENDPOINT", *PROXIES))]))
    address = f"{constants.ENDPOINT}/{repository}"
    fetched = f"fetch {address}/resolve/{revision or 'main'}/{file} by hand and {by_hand}"
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(
            f"{repository!r} is not the name of a repository on the Hugging Face Hub: write user/name."
        ) from error
    except errors.GatedRepoError as error:
        do = "log in with `hf auth login` or set HF_TOKEN" if get_token() is None else "your token has no access yet"
        raise PermissionError(f"{repository} is gated: ask for access at {address}, then try again; {do}.") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no repository {repository} at {constants.ENDPOINT}, or it is private: check its name, or log in "
            "with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repository} has no revision {revision}: see {address}/commits/main.") from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set: unset it, or load the model once where there is a connection"
        elif status := _status(error):
            do = "log in with `hf auth login`, or check your HF_TOKEN" if status in (401, 403) else "try again later"
            why = f"{constants.ENDPOINT} answered with status {status}: {do}"
        else:
            why = f"{constants.ENDPOINT} cannot be reached: check {checked} and try again"
        raise FileNotFoundError(
            f"{file} of {repository}{at} is not in {constants.HF_HUB_CACHE}, and {why}, or {fetched}."
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repository}{at} has no file {file}: see {address}/tree/main.") from error
    # HTTPError belongs to whichever HTTP client the Hub's client uses.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise OSError(f"{file} of {repository}{at} could not be downloaded ({_reason(error)}.") from error
    except (ImportError, ValueError) as error:
        if (proxy := explain_proxy(error)) is None:
            raise
        raise OSError(f"{file} of {repository}{at} could not be downloaded: {proxy}, or {fetched}.") from error


def _reason(error: Exception) -> str:
    """Return the cause of a failed download, with its bracket closed, and what to do about it."""
    cause = " ".join(str(error).split()).rstrip(".")
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{cause}): {constants.HF_HUB_CACHE} cannot be written, so name another folder with HF_HOME"
    if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"{cause}): make room in {constants.HF_HUB_CACHE}, or name another folder with HF_HOME"
    if (status := _status(error)) in (401, 403):
        return f"the server refused it with status {status}): log in with `hf auth login`, or check your HF_TOKEN"
    if number == errno.ENOENT and (names := set_variables(("SSL_CERT_FILE",))):
        return f"{cause}): {names} must name a file of certificates"
    return f"the server answered with status {status}): try again later" if status else f"{cause}): try again"


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error or of its causes; None if no server answered."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return int(status)
        error = error.__cause__
    return None


def verify(path: Path, expected: str | None = None) -> str:
    """Verify the SHA-256 of a file in the client's cache, and return it.

    A verified file is not read again as long as its size and modification time stay the same.

    Args:
        path: the file.
        expected: its checksum. If omitted, the one that the Hub named at the download, if it did.

    Raises:
        InputError: If the checksum differs; the file is then moved aside, so that it will be downloaded again.
    """
    # One step only: the blob, which is named by its checksum, may itself be a link.
    blob = Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path
    expected = expected or (blob.name if SHA256.fullmatch(blob.name) else None)
    state = blob.stat()
    note = f"{state.st_size} {state.st_mtime_ns}"
    if expected and SHA256.fullmatch(expected) and _read(cache_folder() / "verified" / expected) == note:
        return expected
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and found != expected:
        raise InputError(
            f"{path.name} has the SHA-256 {found} instead of {expected}, so it is not what it should be: "
            f"{_put_aside(path, blob)}."
        )
    _keep(cache_folder() / "verified" / found, note)
    return found


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _put_aside(path: Path, blob: Path) -> str:
    aside = blob.with_name(f"{blob.name}.wrong")
    try:
        blob.replace(aside)
        path.unlink(missing_ok=True)  # the link to it, where the cache has links
    except OSError as error:
        return f"delete {blob} ({error.strerror})"
    return f"it was moved to {aside}, and the next attempt downloads it again"
