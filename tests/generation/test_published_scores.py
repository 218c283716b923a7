"""FID and CLIP scores with small random networks, compared with their definitions."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.inception import Inception3, InceptionA
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
)

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation import published_scores
from mtpano_zoo.generation.published_scores import (
    ClipFeatures,
    InceptionFeatures,
    clip_score,
    fid,
    find_inception,
    pool_as_tensorflow,
)
from mtpano_zoo.generation.quality import frechet_distance
from mtpano_zoo.generation.tiny import TinyFlux


class Means(nn.Module):
    """Mean colours instead of Inception's features."""

    num_features = 3

    def __init__(self, weights: object = None) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images.double().mean((2, 3))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    texts = TinyFlux(width=32, double_blocks=1, single_blocks=1).pipeline
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = CLIPVisionConfig(**sizes, image_size=32, patch_size=8).to_dict()
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=texts.text_encoder.config.to_dict(), vision_config=seen, projection_dim=8))
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    CLIPProcessor(pictures, texts.tokenizer).save_pretrained(folder)
    return folder


def panoramas(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    return list(colours.expand(-1, -1, 32, 64))


@pytest.mark.parametrize("largest", [False, True])
def test_pooling_counts_the_pixels_that_there_are(largest: bool) -> None:
    torch.manual_seed(0)
    block, image = InceptionA(4, 2).eval(), torch.rand(1, 4, 5, 6)
    before = block(image)
    pool_as_tensorflow(block, largest)
    found = block(image)
    windows = F.pad(image, (1, 1, 1, 1), value=torch.nan).unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
    expected = windows.nan_to_num(-torch.inf).amax(-1) if largest else windows.nanmean(-1)
    pool = block.branch_pool
    by_hand = F.relu(pool.bn(pool.conv(expected)))
    torch.testing.assert_close(found[:, -2:], by_hand)
    assert torch.equal(found[:, :-2], before[:, :-2]) and not torch.equal(found, before)


def test_inception_reads_the_published_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"not in torch's cache: put pt_inception-2015-12-05-6726825d\.pth into"):
        find_inception("cache")
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict(), path)
    network = InceptionFeatures(find_inception("cache"))
    assert sum(hasattr(b, "branch_pool") and len(b._forward_pre_hooks) == 1 for b in network.network.children()) == 9
    features = network(torch.randint(256, (1, 3, 32, 64), dtype=torch.uint8))
    assert features.shape == (1, 2048) and features.isfinite().all()
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is not the Inception network of FID"):
        InceptionFeatures(path)


def test_fid_looks_at_its_part() -> None:
    made, real = panoramas(4, 0), panoramas(6, 1)
    found = fid(made, real, Means())
    plain = [torch.stack([(255 * image).round().mean((1, 2)) for image in images]) for images in (made, real)]
    assert found["whole"] == pytest.approx(frechet_distance(*plain), rel=1e-4)
    changed = [image.clone() for image in real]
    for image in changed:
        image[:, :4] = 0  # 22 degrees around the zenith
    found = fid(changed, real, Means())
    assert found["equator"] == pytest.approx(0, abs=1e-3)
    assert min(found["poles"], found["whole"]) > 100
    with pytest.raises(InputError, match="at least two panoramas on each side, not 1"):
        fid(made[:1], real, Means())


def test_clip_score_is_a_cosine(clip_folder: Path) -> None:
    clip, images, texts = ClipFeatures(clip_folder), panoramas(2, 0), ["a room", "a street"]
    tokens = clip.processor(text=texts, return_tensors="pt", padding=True)
    words = clip.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    pictures = clip(torch.stack([(255 * image).round().byte() for image in images]))
    expected = 100 * F.cosine_similarity(words, pictures).mean()
    assert clip_score(images, texts, clip) == pytest.approx(max(expected.item(), 0), abs=1e-3)


def test_score_verb(
    clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_scores, "InceptionFeatures", Means)
    for seed, folder in enumerate(("made/img", "real")):
        (tmp_path / folder).mkdir(parents=True)
        for i, image in enumerate(panoramas(4, seed)):
            pixels = (255 * image).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    made, real, weights = str(tmp_path / "made" / "img"), str(tmp_path / "real"), tmp_path / "weights.pth"
    clip = ["--clip", str(clip_folder)]
    compared = ["--reference", real, "--network", "mtpano-tiny.rooms"]
    for options, sentence in (
        ([made, *clip], "has no prompts.jsonl, which a CLIP score needs"),
        ([made, "--fid", "cache"], "FID compares with other panoramas: pass their folder as --reference"),
        ([made, *compared, "--fid", str(weights)], "there are no Inception weights at"),
        ([made, "--clip", str(tmp_path)], "cannot be loaded as a CLIP model"),
    ):
        assert main(["generate", "score", *options]) == 1
        assert sentence in capsys.readouterr().err
    rows = [{"image": f"img/{i}.png", "caption": "a room", "seed": i} for i in range(4)]
    (tmp_path / "made" / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    weights.touch()
    assert main(["generate", "score", made, *compared, *clip, "--fid", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["FID", "FID", "FIDclip", "CLIP"]
    assert all(len(line.split()) == 4 for line in lines[-3:-1])
