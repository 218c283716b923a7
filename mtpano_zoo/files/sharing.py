"""Share a network as a folder, or as a Hugging Face Hub repository, that `load_model` reads back."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi, errors

from mtpano_zoo.files.card import model_card
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.files.proxy import explain_proxy
from mtpano_zoo.files.weights import CONFIG, WEIGHTS, write_weights
from mtpano_zoo.layers import merge_lora

if TYPE_CHECKING:
    from mtpano_zoo.models import PanoramaNetwork

__all__ = ("FILES", "push_to_hub", "save_pretrained")

FILES = (WEIGHTS, CONFIG, "README.md")


def save_pretrained(
    network: "PanoramaNetwork", folder: str | Path, *, overwrite: bool = False, source: str | None = None
) -> None:
    """Write a network to a folder: `model.safetensors`, `config.json` and its card `README.md`.

    `load_model("local-dir:FOLDER")` reads it back bit for bit, without naming a class. The files appear once all of
    them are complete.

    Args:
        network: The network; its `card` states its origin.
        folder: Where to write. It is created if needed, and other files in it are kept.
        overwrite: Replace existing files of these names.
        source: What the card tells users to pass to `load_model`; by default a local folder of this name.

    Raises:
        FileExistsError: If one of the files exists and `overwrite` is false; nothing is written then.
        NotADirectoryError: If the folder is a file.
        InputError: If the card is not plain data, or does not have the form that `PanoramaNetwork` describes.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder to write into.")
    existing = [folder / name for name in FILES if (folder / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} already exists: choose another folder, or pass overwrite=True.")
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
    """Upload the files of `save_pretrained` to the Hugging Face Hub in one commit; `hf-hub:REPOSITORY` loads them.

    Args:
        network: The network; its `card` states its origin.
        repository: `user/name`, created if it does not exist. In an existing one the three files are replaced, and its
            history keeps the old ones.
        token: A token with write access; by default the one that `hf auth login` stored.
        private: Make a new repository private. An existing one stays as it is.
        message: Commit message.

    Returns:
        The address of the commit.

    Raises:
        PermissionError: If the token is rejected or has no write access.
        ConnectionError: If the Hub cannot be reached.
        OSError: If the Hub refuses for another reason, which the message names.
        InputError: If `repository` is not a repository name.
    """
    api = HfApi(token=token)
    with _explained(repository, api.endpoint):  # first, so that a rejected token fails before gigabytes are written
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(network, folder, source=f"hf-hub:{name}")
        additions = [CommitOperationAdd(file, Path(folder) / file) for file in FILES]
        with _explained(name, api.endpoint):
            return str(api.create_commit(name, additions, commit_message=message).commit_url)


@contextmanager
def _explained(repository: str, endpoint: str) -> Iterator[None]:
    """Turn errors of the Hub client into one sentence."""
    try:
        yield
    # HTTPError belongs to the HTTP client that the Hub client uses; a RuntimeError wraps errors of large files.
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
                "pass a token with write access."
            ) from error
        if status == 403:
            raise PermissionError(
                f"You may not write to {repository} on the Hugging Face Hub with this token: choose a repository of "
                "your own, or a token with write access."
            ) from error
        raise OSError(f"The Hugging Face Hub refuses {repository} with status {status}: {_line(cause)}.") from error
    except (ImportError, ValueError) as error:
        if (proxy := explain_proxy(error)) is None:
            raise
        raise ConnectionError(f"{repository} could not be uploaded to the Hugging Face Hub: {proxy}.") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
