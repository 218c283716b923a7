"""Domains by words: a tiny random CLIP, compared with the library's own processing."""

import json

import pytest
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.zero_shot import ZeroShotDomain

LETTERS = "aeinorstu"
WORDS = {"inside": "in a", "outside": "out on a", "water": "sea"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CLIP in miniature with random weights and a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


@pytest.fixture
def image():
    return (torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(1)) * 255).round() / 255


def test_the_domain_is_that_of_the_library(folder, image):
    classifier = ZeroShotDomain(WORDS, str(folder), size=32)
    views = classifier.views(image)
    processor = transformers.CLIPProcessor(
        classifier.matcher.processor, transformers.AutoTokenizer.from_pretrained(folder)
    )
    pictures = [Image.fromarray((view.permute(1, 2, 0).numpy() * 255).round().astype("uint8")) for view in views]
    inputs = processor(text=list(WORDS.values()), images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = classifier.matcher.network(**inputs).logits_per_image
    assert_close(classifier.matcher.fits(views), expected, rtol=0, atol=0.02)  # pictures are rounded to 8 bits
    assert expected.std(1).min() > 0.1
    assert classifier({"image": image}, ()) == list(WORDS)[int(expected.mean(0).argmax())]
    turned = ZeroShotDomain(dict(reversed(WORDS.items())), str(folder), size=32)
    assert turned({"image": image}, ()) == classifier({"image": image}, ())


def test_views_go_round_the_horizon(folder, image):
    classifier = ZeroShotDomain(WORDS, str(folder), size=16)
    views = classifier.views(image)
    assert_close(classifier.views(image.roll(-16, -1)), views.roll(-1, 0), rtol=0, atol=1e-5)


def test_weights_and_words_are_in_the_manifest(folder):
    provenance = ZeroShotDomain(WORDS, str(folder)).provenance
    assert provenance["options"]["words"] == WORDS and len(provenance["sha256"]["model.safetensors"]) == 64
    json.dumps(provenance)


@pytest.mark.parametrize("words", [{"indoor": "a room"}, {}, {"indoor": "a room", "outdoor": " "}])
def test_fewer_than_two_domains(folder, words):
    with pytest.raises(InputError, match="words for two domains or more"):
        ZeroShotDomain(words, str(folder))


def test_a_folder_without_words(folder, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match="has no tokenizer: it needs one of the files"):
        ZeroShotDomain(WORDS, str(tmp_path))


def test_the_command_line_takes_it(folder, tmp_path, capsys):
    # A folder without labels is refused after the classifier was built.
    options = [f"--domains={ZeroShotDomain.__module__}.ZeroShotDomain", f"--domains.source={folder}"]
    options.append("--domains.words={inside: a room, outside: a street}")
    assert main(
        ["curate", "score", str(tmp_path), "--discriminator", "none.ckpt", "--out", str(tmp_path / "out"), *options]
    )
    assert "none.ckpt" in capsys.readouterr().err
