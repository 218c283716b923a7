"""Overrides that make an experiment of the shipped configurations tiny."""

TINY_SIZES = {
    "encoder": {
        "class_path": "ViTEncoder",
        "init_args": {
            "name": "vit_small_patch16_dinov3_qkvb",
            "width": 32,
            "depth": 4,
            "heads": 2,
            "patch_size": 8,
            "pretrained": False,
        },
    },
    "bridge_width": 16,
    "neck_widths": [8, 8, 16, 16],
    "fusion_width": 8,
}
# In place of the published network, its size and the length of its training.
TINY_EXPERIMENT = {
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 2,
        "val_check_interval": 1,
        "limit_test_batches": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {"network": {"class_path": "PDBridgeNet", "init_args": {"input_size": [32, 64], **TINY_SIZES}}},
    "data": {"init_args": {"root": "data", "height": 32, "width": 64, "batch_size": 2, "num_workers": 0}},
}
