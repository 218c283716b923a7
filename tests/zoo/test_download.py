"""Every way a download can end, with the real client against the Hub of `conftest.py`."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.resources import cache_folder
from mtpano_zoo.zoo.download import download, fetch, known_checksum, verify
from mtpano_zoo.zoo.entries import Entry, entries

CONTENT = os.urandom(100_000)
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def entry() -> Entry:
    large = entries()["mtpano-large.408k"]
    return replace(large, name="tiny.test", repository="user/tiny", file="tiny.pth.tar")


@pytest.fixture
def commit(hub) -> str:
    return hub.commit("user/tiny", {"tiny.pth.tar": CONTENT, "README.md": b"# Tiny"})


def test_the_first_download_shows_its_progress(hub, commit, entry, monkeypatch, capfd) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # as in a terminal
    path, checksum = fetch(entry)
    assert path.read_bytes() == CONTENT and checksum == CHECKSUM
    shown = capfd.readouterr().err
    assert "tiny.pth.tar" in shown and "100%" in shown and "100k/100k" in shown
    assert (hub.count("HEAD"), hub.count("GET")) == (1, 1)


def test_the_second_time_nothing_is_requested(hub, commit, entry, monkeypatch, capfd) -> None:
    first = fetch(entry)
    hub.requests.clear()
    monkeypatch.setenv("TQDM_POSITION", "-1")
    assert fetch(entry) == first
    assert hub.requests == [] and "tiny" not in capfd.readouterr().err


def test_a_branch_is_looked_up_but_not_downloaded_again(hub, commit) -> None:
    download("user/tiny", "tiny.pth.tar")
    hub.requests.clear()
    download("user/tiny", "tiny.pth.tar")
    assert (hub.count("HEAD"), hub.count("GET")) == (1, 0)


def test_an_interrupted_download_goes_on_where_it_was(hub, commit, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.break_off_after = [20_500, 30_000]
    assert download("user/tiny", "tiny.pth.tar").read_bytes() == CONTENT
    assert hub.ranges == ["bytes=20000-", "bytes=50000-"]
    assert hub.count("GET") == 3


def test_a_download_that_never_ends(hub, commit) -> None:
    hub.break_off_after = [0] * 20
    with pytest.raises(
        OSError, match=r"tiny\.pth\.tar of user/tiny could not be downloaded \(.*\): try again\."
    ) as told:
        download("user/tiny", "tiny.pth.tar")
    assert "\n" not in str(told.value)
    hub.break_off_after = []
    assert download("user/tiny", "tiny.pth.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("pinned", [True, False])
def test_a_wrong_checksum(pinned: bool, hub, commit, entry, hub_cache: Path) -> None:
    """Of the entry where it has one, else what the Hub says itself of a large file."""
    if pinned:
        entry = replace(entry, revision=commit, sha256=CHECKSUM, size=len(CONTENT))
    spoilt = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    hub.spoilt[CONTENT] = spoilt
    with pytest.raises(ValueError, match="has the SHA-256") as told:
        fetch(entry)
    assert hashlib.sha256(spoilt).hexdigest() in str(told.value) and CHECKSUM in str(told.value)
    (aside,) = hub_cache.rglob("*.wrong")
    assert str(aside) in str(told.value) and aside.read_bytes() == spoilt
    hub.spoilt.clear()
    assert fetch(entry)[0].read_bytes() == CONTENT


def test_an_entry_whose_checksum_is_not_that_of_the_file(hub, commit, entry) -> None:
    with pytest.raises(ValueError, match=f"has the SHA-256 {CHECKSUM} instead of {'0' * 64}"):
        fetch(replace(entry, sha256="0" * 64))


def test_a_file_that_changes_on_the_disk_is_noticed(hub, commit, entry) -> None:
    path, _ = fetch(entry)
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(CONTENT[::-1])
    os.utime(blob, (1, 1))
    with pytest.raises(ValueError, match="has the SHA-256"):
        fetch(entry)


def test_what_was_downloaded_first_is_kept_to(hub, commit, entry) -> None:
    """An entry without revision and checksum follows no later commit; one with them needs no record."""
    fetch(entry)
    later = hub.commit("user/tiny", {"tiny.pth.tar": CONTENT[::-1]})
    assert fetch(entry)[0].read_bytes() == CONTENT
    assert fetch(replace(entry, revision=later, sha256=hashlib.sha256(CONTENT[::-1]).hexdigest()))[1] != CHECKSUM
    (cache_folder() / "tiny.test" / "origin.json").unlink()
    assert fetch(entry)[0].read_bytes() == CONTENT[::-1]


def test_without_requests_the_cached_file_is_taken(hub, commit, entry) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(entry, cached_only=True)
    assert hub.requests == []
    huggingface_hub.hf_hub_download("user/tiny", "tiny.pth.tar")
    hub.commit("user/tiny", {"tiny.pth.tar": CONTENT[::-1]})
    hub.requests.clear()
    assert fetch(entry, cached_only=True)[0].read_bytes() == CONTENT
    huggingface_hub.hf_hub_download("user/tiny", "tiny.pth.tar")  # now the newer commit is `main` in the cache too
    hub.requests.clear()
    assert fetch(entry, cached_only=True)[0].read_bytes() == CONTENT
    with pytest.raises(ValueError, match="has the SHA-256"):
        fetch(replace(entry, sha256="0" * 64), cached_only=True)
    assert hub.requests == []


def test_without_a_writable_cache_of_ours(hub, commit, entry, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "file" / "cache"))
    assert fetch(entry)[1] == fetch(entry)[1] == CHECKSUM


def test_a_missing_file(hub, commit) -> None:
    with pytest.raises(FileNotFoundError, match=r"user/tiny has no file large\.pth\.tar: see http://.*/user/tiny/tree"):
        download("user/tiny", "large.pth.tar")


def test_a_missing_revision(hub, commit) -> None:
    with pytest.raises(FileNotFoundError, match=r"user/tiny has no revision v9: see http://.*/user/tiny/commits"):
        download("user/tiny", "tiny.pth.tar", "v9")


def test_a_missing_repository(hub) -> None:
    with pytest.raises(FileNotFoundError, match=r"no repository user/none at http://.*, or it is private: check its"):
        download("user/none", "tiny.pth.tar")


@pytest.mark.parametrize("name", ["user/tiny/large", "user tiny", "-user/tiny"])
def test_what_is_no_name_of_a_repository(hub_cache: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not the name of a repository on the Hugging Face Hub"):
        download(name, "tiny.pth.tar")


def test_a_gated_repository_without_token(hub, commit) -> None:
    hub.gated.add("user/tiny")
    with pytest.raises(PermissionError, match=r"user/tiny is gated: ask for access at http.*/user/tiny.*hf auth login"):
        download("user/tiny", "tiny.pth.tar")


def test_a_gated_repository_with_a_token_without_access(hub, commit, monkeypatch) -> None:
    hub.gated.add("user/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with pytest.raises(PermissionError, match=r"user/tiny is gated: .*your token has no access yet"):
        download("user/tiny", "tiny.pth.tar")


def test_a_gated_repository_with_the_token_of_somebody_who_was_granted_access(hub, commit, monkeypatch) -> None:
    hub.gated.add("user/tiny")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert download("user/tiny", "tiny.pth.tar").read_bytes() == CONTENT  # and the CDN never saw the token


def test_offline_with_cache(hub, commit, entry, monkeypatch) -> None:
    path = download("user/tiny", "tiny.pth.tar")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("user/tiny", "tiny.pth.tar") == path
    assert hub.requests == []


def test_offline_without_cache(hub, commit, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"is not in .*hub, and HF_HUB_OFFLINE is set: unset it, or load"):
        download("user/tiny", "tiny.pth.tar")
    assert hub.requests == []


def test_a_server_that_is_down_with_cache(hub, commit) -> None:
    path = download("user/tiny", "tiny.pth.tar")
    hub.stop()
    assert download("user/tiny", "tiny.pth.tar") == path


def test_a_server_that_is_down_without_cache(hub, commit) -> None:
    hub.stop()
    with pytest.raises(
        FileNotFoundError, match=r"tiny\.pth\.tar of user/tiny is not in .*cannot be reached: check the"
    ):
        download("user/tiny", "tiny.pth.tar")


@pytest.mark.parametrize("blocked", [False, True])
def test_without_a_connection_the_answer_comes_at_once(blocked: bool, hub_cache: Path, entry, monkeypatch) -> None:
    """The client itself would try six times, for half a minute where nothing answers; what to do by hand is said."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1] if blocked else 9}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("mtpano_zoo.zoo.download.HUB_TIMEOUT", 0.5)
        start = time.monotonic()
        with pytest.raises(FileNotFoundError) as told:
            fetch(entry)
        assert time.monotonic() - start < 3
    assert str(told.value) == (
        f"tiny.pth.tar of user/tiny is not in {hub_cache}, and {address} cannot be reached: check the connection and "
        f"try again, or fetch {address}/user/tiny/resolve/main/tiny.pth.tar by hand and pass its path instead of the "
        'name: load_model("/path/to/tiny.pth.tar").'
    )


def test_what_is_fetched_by_hand_is_loaded_as_the_sentence_says(hub_cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'load_model\("/path/to/mtpano_model_408k\.pth\.tar"\)\.$'):
        load_model("mtpano-large.408k")
    with pytest.raises(FileNotFoundError, match=r"put config\.json and model\.safetensors into one folder"):
        load_model("hf-hub:user/tiny")


@pytest.mark.parametrize("variable", ["ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    ("proxy", "advice"),
    [
        ("socks5://user:secret@127.0.0.1:9", r"names a SOCKS proxy: run `pip install socksio`, .*or unset it"),
        ("socks4://user:secret@127.0.0.1:9", r"is not the address of an HTTP or SOCKS5 proxy: correct it or unset it"),
    ],
)
def test_a_proxy_that_the_client_cannot_use(
    variable: str, proxy: str, advice: str, hub, commit, entry, tiny_network, monkeypatch, capsys
) -> None:
    """In one sentence, which does not show the password; what is in the cache needs no proxy."""
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    fetched = fetch(entry)
    monkeypatch.setenv(variable, proxy)
    huggingface_hub.close_session()
    assert fetch(entry) == fetched
    with pytest.raises(
        OSError, match=rf"^tiny\.pth\.tar of user/tiny could not .*: {variable} {advice}, or fetch http"
    ) as told:
        download("user/tiny", "tiny.pth.tar")
    assert "secret" not in str(told.value)
    with pytest.raises(ConnectionError, match=rf"user/other could not be uploaded .*: {variable} {advice}\.$"):
        tiny_network().push_to_hub("user/other", token="hf_somebody")
    assert main(["export", "mtpano-large.408k", "--format", "onnx", "--out", "absent/x.onnx"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(("variable", "value"), [("HF_ENDPOINT", "garbage"), ("HTTPS_PROXY", "http://127.0.0.1:9")])
def test_the_variables_that_may_be_wrong_are_named(variable: str, value: str, hub_cache: Path, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(constants, "ENDPOINT", value if variable == "HF_ENDPOINT" else "https://127.0.0.2:9")
    with pytest.raises(
        FileNotFoundError, match=rf"cannot be reached: check the connection and {variable} and try again"
    ):
        download("user/tiny", "tiny.pth.tar")


NO_NAMES = [
    "../../../x",
    "a/../../x",
    "/abs",
    "a//b",
    "",
    ".",
    "..",
    "a\\..\\x",
    "C:x",
    "a\0b",
    "a b\n",
    "refs/../../../x",
    "~/x",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_name_leads_out_of_the_cache(name: str, hub, commit, tmp_path: Path, entry) -> None:
    """Of a revision, a file or a repository; nothing is asked, and no file is written anywhere."""
    with pytest.raises(ValueError, match="is not a valid revision name in user/tiny"):
        download("user/tiny", "tiny.pth.tar", name)
    with pytest.raises(ValueError, match="is not a valid file name in user/tiny"):
        download("user/tiny", name)
    for repository in (name, f"user/{name}", f"{name}/tiny"):
        with pytest.raises(ValueError, match="is not the name of a repository"):
            download(repository, "tiny.pth.tar")
    if name:
        with pytest.raises(ValueError, match="is not a valid revision name in user/tiny"):
            load_model(f"hf-hub:user/tiny@{name}")
        with pytest.raises(ValueError, match=r"is not (the name of a repository|a valid revision name)"):
            load_model(f"hf-hub:{name}")
        with pytest.raises(ValueError, match="is not a valid revision name"):
            fetch(replace(entry, revision=name))
    assert hub.requests == [] and not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["main", "v1.0", "refs/pr/3", "feature/a+b", "a" * 40])
def test_names_of_revisions_are_asked_for(name: str, hub, commit) -> None:
    with contextlib.suppress(FileNotFoundError):
        download("user/tiny", "tiny.pth.tar", name)
    assert any(path == f"/user/tiny/resolve/{name}/tiny.pth.tar" for _, path in hub.requests)


def test_what_was_noted_of_the_first_download_leads_nowhere_else(hub, commit, entry, tmp_path: Path) -> None:
    """A note in the cache that `fetch` has not written counts as none."""
    fetch(entry)
    note = cache_folder() / "tiny.test" / "origin.json"
    whole = json.loads(note.read_bytes())
    for change in ({"revision": "../../../x"}, {"revision": 5}, {"sha256": "../../../../x"}, {"sha256": None}):
        note.write_text(json.dumps(whole | change))
        assert known_checksum(entry) is None or "sha256" not in change
        assert fetch(entry)[1] == CHECKSUM
        assert json.loads(note.read_bytes()) == whole
    for text in ("[]", "5", "null", "{}", "{"):
        note.write_text(text)
        assert known_checksum(entry) is None
    assert not [path for path in tmp_path.rglob("x")]


def test_small_files_carry_no_checksum_of_their_own(hub, commit) -> None:
    assert verify(download("user/tiny", "README.md")) == hashlib.sha256(b"# Tiny").hexdigest()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "hf auth login"),
        (403, "hf auth login"),
        (429, "try again later"),
        (500, "again"),
        (503, "try again later"),
    ],
)
def test_a_server_that_refuses(status: int, advice: str, hub, commit) -> None:
    hub.status = status
    with pytest.raises(OSError, match=rf"(status {status}|no repository).*{advice}") as told:
        download("user/tiny", "tiny.pth.tar")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "cannot be written, so name another folder with HF_HOME"), (errno.ENOSPC, "make room in")],
)
def test_a_cache_of_the_hub_that_cannot_be_written(number: int, advice: str, monkeypatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, "what the system says")

    monkeypatch.setattr("mtpano_zoo.zoo.download.hf_hub_download", fail)
    with pytest.raises(OSError, match=rf"could not be downloaded \(.*what the system says\).*{advice}"):
        download("user/tiny", "tiny.pth.tar")
