"""Grounding DINO and SAM in miniature, with random weights, as folders of `transformers`."""

from pathlib import Path

import torch
import transformers


def write_detector(folder: Path) -> None:
    """Grounding DINO in miniature, with a tokenizer of a few words."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "sky", "water", "##mark", "the"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_indices=[2, 3, 4]
    )
    bert = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        **{"backbone_config": swin, "text_config": bert, "num_queries": 9, "d_model": 32, "encoder_layers": 1},
        **{"decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2},
        **{"decoder_attention_heads": 2, "max_text_len": 32, "disable_custom_kernels": True},
    )
    network = transformers.GroundingDinoForObjectDetection(config)
    network.save_pretrained(folder)
    vocab = {word: i for i, word in enumerate(words)}
    transformers.BertTokenizerFast(vocab=vocab).save_pretrained(folder)
    transformers.GroundingDinoImageProcessor(size={"height": 64, "width": 128}).save_pretrained(folder)


def write_segmenter(folder: Path) -> None:
    """SAM in miniature."""
    torch.manual_seed(1)
    vision = transformers.SamVisionConfig(
        **{"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 16},
        **{"num_pos_feats": 8, "initializer_range": 0.2},
    )
    prompt = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, mask_size={"longest_edge": 16}, pad_size={"height": 64, "width": 64}
    ).save_pretrained(folder)
