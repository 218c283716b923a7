"""Giving a network to others: a folder, or a repository of the Hugging Face Hub, that `load_model` reads back."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi, errors

from mtpano_zoo.files.card import model_card
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.files.proxy import explain_proxy
from mtpano_zoo.files.weights import write_weights
from mtpano_zoo.layers import merge_lora

if TYPE_CHECKING:
    from mtpano_zoo.models import PanoramaNetwork

__all__ = ("FILES", "push_to_hub", "save_pretrained")

FILES = ("model.safetensors", "config.json", "README.md")


def save_pretrained(
    network: "PanoramaNetwork", folder: str | Path, *, overwrite: bool = False, source: str | None = None
) -> None:
    """Write a network to a folder: `model.safetensors`, `config.json` and its card `README.md`.

    `load_model("local-dir:FOLDER")` reads it back, equal to the last bit and with no class given. The files appear when
    all of them are complete.

    Args:
        network: the network; its `card` says where it comes from.
        folder: where to write; made as needed, and whatever else it holds stays.
        overwrite: replace files of these names.
        source: how the card says the network is loaded; by default from a folder of this name.

    Raises:
        FileExistsError: one of the files exists and `overwrite` is false; nothing has been written then.
        NotADirectoryError: the folder is a file.
        InputError: the card is no plain data, or not as `PanoramaNetwork` describes it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder to write into.")
    existing = [folder / name for name in FILES if (folder / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists already: choose another folder, or pass overwrite=True.")
    card = model_card(network, source or f"local-dir:{folder.resolve().name}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as unfinished:
        write_weights(unfinished, merge_lora(network.state_dict()), describe_network(network) | {"card": network.card})
        (Path(unfinished) / "README.md").write_text(card, encoding="utf-8")
        for name in FILES:
            (Path(unfinished) / name).replace(folder / name)


def push_to_hub(
    network: "PanoramaNetwork",
    repository: str,
    *,
    token: str | None = None,
    private: bool = False,
    message: str = "Upload model",
) -> str:
    """Upload to the Hugging Face Hub what `save_pretrained` writes, as one commit; `hf-hub:REPOSITORY` loads it.

    Args:
        network: the network; its `card` says where it comes from.
        repository: `user/name`; made if it does not exist. In one that exists the three files are replaced, and its
            history keeps what they were.
        token: a token that may write; by default the one that `hf auth login` stored.
        private: make a new repository private; one that exists stays as it is.
        message: message of the commit.

    Returns:
        The address of the commit.

    Raises:
        PermissionError: if the token is not accepted or may not write there.
        ConnectionError: if the Hub cannot be reached.
        OSError: if the Hub refuses for another reason, which it names.
        InputError: If `repository` is no name of a repository.
    """
    api = HfApi(token=token)
    with _explained(repository, api.endpoint):  # first: a token that is refused should not cost writing gigabytes
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(network, folder, source=f"hf-hub:{name}")
        additions = [CommitOperationAdd(file, Path(folder) / file) for file in FILES]
        with _explained(name, api.endpoint):
            return str(api.create_commit(name, additions, commit_message=message).commit_url)


@contextmanager
def _explained(repository: str, endpoint: str) -> Iterator[None]:
    """Turn what the client of the Hub raises into one sentence."""
    try:
        yield
    # HTTPError is that of whichever client the Hub's own uses; a RuntimeError wraps what happens to a large file.
    except (errors.HTTPError, ConnectionError, RuntimeError) as error:  # type: ignore[attr-defined]
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, errors.HfHubHTTPError):
            raise ConnectionError(
                f"{repository} could not be uploaded to the Hugging Face Hub at {endpoint}: {_line(cause or error)}."
            ) from error
        status = cause.response.status_code
        if status == 401:
            raise PermissionError(
                f"The Hugging Face Hub does not accept your token for {repository}: log in with `hf auth login`, or "
                "pass a token that may write."
            ) from error
        if status == 403:
            raise PermissionError(
                f"You may not write to {repository} on the Hugging Face Hub with this token: choose a repository of "
                "your own, or a token that may write."
            ) from error
        raise OSError(f"The Hugging Face Hub refuses {repository} with status {status}: {_line(cause)}.") from error
    except (ImportError, ValueError) as error:
        if (proxy := explain_proxy(error)) is None:
            raise
        raise ConnectionError(f"{repository} could not be uploaded to the Hugging Face Hub: {proxy}.") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
