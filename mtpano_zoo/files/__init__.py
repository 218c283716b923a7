"""Files of weights and what describes them: checkpoints of training, safetensors, model cards, sharing."""
