"""Files that hold or describe networks: training checkpoints, safetensors, model cards, sharing."""
