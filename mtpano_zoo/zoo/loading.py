"""From a name in `checkpoints.yaml` or a path to a network with its weights."""

import difflib
import hashlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import hf_hub_download

from mtpano_zoo.models import NETWORKS, PanoramaNetwork
from mtpano_zoo.reference.mtpano import convert_state_dict
from mtpano_zoo.resources import shipped
from mtpano_zoo.training.checkpoint import load_network, load_strictly, read_checkpoint

__all__ = ("entries", "list_models", "load_model")


def entries() -> dict[str, dict[str, Any]]:
    """Read `checkpoints.yaml`: what is known of every published checkpoint, by name (`arch.tag`)."""
    known: dict[str, dict[str, Any]] = yaml.safe_load(shipped("checkpoints.yaml").read_text(encoding="utf-8"))
    return known


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the zoo that match a pattern with wildcards, e.g. `mtpano*`."""
    return sorted(name for name in entries() if fnmatchcase(name, pattern))


def load_model(source: str | Path, device: str | torch.device = "cpu") -> PanoramaNetwork:
    """Load a network with its weights, ready to predict.

    Loading is strict: what does not match is listed key by key. Files are read as tensors and plain data only.

    Args:
        source: a name of `list_models()`, which is downloaded to the cache of the Hugging Face Hub on first use, or the
            path of a checkpoint that training wrote (`.ckpt`), which needs no configuration beside it.
        device: where the network should live.

    Raises:
        FileNotFoundError: if `source` is a path and nothing is there.
        ValueError: if there is no such name, or the file does not hold what it should.
    """
    known = entries()
    if str(source) in known:
        network = _load_published(known[str(source)])
    elif Path(source).suffix == ".safetensors":
        raise ValueError(f"{source} holds weights without their network; give the .ckpt that training wrote.")
    elif Path(source).is_file():
        network = load_network(source)
    elif Path(source).suffix in (".ckpt", ".pth", ".tar", ".safetensors") or len(Path(source).parts) > 1:
        raise FileNotFoundError(f"There is no checkpoint at {source}.")
    else:
        raise ValueError(_unknown_name(str(source), sorted(known)))
    return network.to(device).eval()


def _unknown_name(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return (
        f"There is no model {name!r} in the zoo; did you mean {nearest!r}? "
        "`mtpano models` lists all names; a checkpoint of your own is given by its path."
    )


def _load_published(entry: dict[str, Any]) -> PanoramaNetwork:
    path = hf_hub_download(entry["repository"], entry["file"], revision=entry["revision"])
    if entry["sha256"] is not None:
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry["sha256"]:
            raise ValueError(f"{path} has the checksum {found} instead of {entry['sha256']}; delete it and try again.")
    network = NETWORKS[entry["network"]](**entry["arguments"])
    load_strictly(network, convert_state_dict(read_checkpoint(path)["model"]), path)
    return network
