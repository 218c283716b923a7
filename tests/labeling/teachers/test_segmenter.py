import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.testing import assert_close

from mtpano_zoo.labeling.teachers.segmenter import Segmenter

CLASSES = ("wall", "floor", "lamp", "sky", "door")
LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
SIZE = {"height": 64, "width": 64}
STAGES = ("stage1", "stage2", "stage3", "stage4")


def swin():
    return transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=list(STAGES)
    )


def segformer():
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        **LABELS,
    )
    return transformers.SegformerForSemanticSegmentation(config), transformers.SegformerImageProcessor(size=SIZE)


def query_sizes(names):
    widths = dict.fromkeys(names, 32)
    return widths | {
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "dim_feedforward": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 2,
        "num_queries": 6,
        "backbone_config": swin(),
        **LABELS,
    }


def mask2former():
    config = transformers.Mask2FormerConfig(**query_sizes(("feature_size", "mask_feature_size")))
    return transformers.Mask2FormerForUniversalSegmentation(config), transformers.Mask2FormerImageProcessor(size=SIZE)


def oneformer():
    text = {"text_encoder_width": 16, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 64}
    config = transformers.OneFormerConfig(
        task_seq_len=30,
        max_seq_len=30,
        text_encoder_context_length=30,
        text_encoder_n_ctx=2,
        **text,
        **query_sizes(("conv_dim", "mask_dim")),
    )
    return transformers.OneFormerForUniversalSegmentation(config), transformers.OneFormerImageProcessor(size=SIZE)


EOMT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "num_queries": 6,
    "num_blocks": 1,
    "num_upscale_blocks": 1,
    "num_register_tokens": 1,
    **LABELS,
}


def eomt():
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(mlp_ratio=2, **EOMT)), processor


def eomt_dinov3():
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    config = transformers.EomtDinov3Config(intermediate_size=32, **EOMT)
    return transformers.EomtDinov3ForUniversalSegmentation(config), processor


def tokenizer():
    letters = sorted(set("thetaskismnc"))
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


ARCHITECTURES = {
    "segformer": segformer,
    "mask2former": mask2former,
    "oneformer": oneformer,
    "eomt": eomt,
    "eomt_dinov3": eomt_dinov3,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a random network of an architecture once; return its folder, the network and its image processor."""
    made = {}

    def save(name):
        if name not in made:
            torch.manual_seed(1)
            network, processor = ARCHITECTURES[name]()
            # Random initial weights see the same everywhere; these tell the parts of an image apart.
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=1 / parameter[0].numel() ** 0.5)
            folder = tmp_path_factory.mktemp(name)
            network.eval().save_pretrained(folder)
            processor.save_pretrained(folder)
            if name == "oneformer":
                tokenizer().save_pretrained(folder)
                # Published ones name a file of the Hub, which only training needs.
                path = folder / "preprocessor_config.json"
                path.write_text(json.dumps(json.loads(path.read_text()) | {"class_info_file": "ade20k_panoptic.json"}))
            made[name] = folder, network, processor
        return made[name]

    return save


def by_the_library(name, network, processor, pictures, height, width):
    """The raw output and the class map that the library's own example gives for pictures."""
    if name == "oneformer":
        both = transformers.OneFormerProcessor(processor, tokenizer(), max_seq_length=30, task_seq_length=30)
        inputs = both(images=pictures, task_inputs=["semantic"] * len(pictures), return_tensors="pt")
    else:
        inputs = processor(images=pictures, return_tensors="pt")
    with torch.no_grad():
        output = network(**inputs)
    sizes = [(height, width)] * len(pictures)
    return output, torch.stack(processor.post_process_semantic_segmentation(output, target_sizes=sizes))


def by_hand(name, output):
    """Probabilities from raw output, one query after the other."""
    if name == "segformer":
        total = output.logits.double().exp()
    else:
        total = torch.zeros(3, 5, 16, 16, dtype=torch.float64)
        for query in range(6):
            kinds = output.class_queries_logits[:, query].double().exp()
            share = kinds[:, :5] / kinds.sum(1, keepdim=True)
            mask = 1 / (1 + (-output.masks_queries_logits[:, query].double()).exp())
            total += share[:, :, None, None] * mask[:, None]
    return total / total.sum(1, keepdim=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_with_the_library_on_pictures(name, saved, some_views, as_pictures):
    folder, network, processor = saved(name)
    teacher = Segmenter(str(folder), batch_size=2)
    assert teacher.classes == CLASSES
    # Views of the size of the network are not resized: what is left is rounding.
    seen = some_views(height=64, width=64)
    labels = teacher(seen)
    output, _ = by_the_library(name, network, processor, as_pictures(seen), 64, 64)
    assert labels.depth is None and labels.normals is None
    assert labels.probabilities.shape == (3, 5, 16, 16)
    assert_close(labels.probabilities.double(), by_hand(name, output), atol=1e-4, rtol=0)

    # Pictures of another size are resized in whole bytes, tensors are not.
    seen = some_views()
    probabilities = teacher(seen).probabilities
    output, class_map = by_the_library(name, network, processor, as_pictures(seen), 96, 96)
    assert (probabilities - by_hand(name, output)).abs().mean() < 0.02
    assert len(class_map.unique()) > 1
    assert (enlarged(probabilities, 96, 96) == class_map).float().mean() > 0.95


def enlarged(probabilities, height, width):
    """The class map of probabilities at another size, interpolated as the logits that they come from."""
    return F.interpolate(probabilities.log(), size=(height, width), mode="bilinear", align_corners=False).argmax(1)


@pytest.mark.parametrize("name", ["segformer", "eomt"])
def test_views_need_not_be_square(name, saved, some_views, as_pictures):
    folder, network, processor = saved(name)
    seen = some_views(height=64, width=100)
    probabilities = Segmenter(str(folder)).forward(seen).probabilities
    _, class_map = by_the_library(name, network, processor, as_pictures(seen), 64, 100)
    assert (enlarged(probabilities, 64, 100) == class_map).float().mean() > 0.95
    assert_close(probabilities.sum(1), torch.ones_like(probabilities[:, 0]))


def test_padded_input_must_be_square(saved, some_views):
    with pytest.raises(ValueError, match="needs square views, got 64 x 100"):
        Segmenter(str(saved("eomt_dinov3")[0]))(some_views(height=64, width=100))


def test_size_is_the_shorter_side_where_that_was_published(saved, some_views, tmp_path):
    network = saved("mask2former")[1]
    network.save_pretrained(tmp_path)
    sides = {"shortest_edge": 64, "longest_edge": 160}
    transformers.Mask2FormerImageProcessor(size=sides).save_pretrained(tmp_path)
    assert Segmenter(str(tmp_path))(some_views()).probabilities.shape[-2:] == (16, 16)
    large = Segmenter(str(tmp_path), size=96)
    assert large(some_views()).probabilities.shape[-2:] == (24, 24)
    assert large(some_views(1, 48, 96)).probabilities.shape[-2:] == (24, 48)


def test_batches_size_and_precision(saved, some_views):
    folder = str(saved("mask2former")[0])
    seen = some_views()
    one, all_at_once = (Segmenter(folder, batch_size=size)(seen).probabilities for size in (1, 8))
    assert_close(one, all_at_once)
    assert Segmenter(folder, size=96)(seen).probabilities.shape == (3, 5, 24, 24)
    with pytest.raises(ValueError, match="only takes images of 64 pixels, not 96"):
        Segmenter(str(saved("eomt_dinov3")[0]), size=96)
    rough = Segmenter(folder, precision="bfloat16")(seen).probabilities
    assert rough.dtype == torch.float32 and not torch.equal(rough, all_at_once)
    assert (rough - all_at_once).abs().mean() < 0.05
