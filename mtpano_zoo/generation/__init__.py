"""Panoramas from text by diffusion transformers of the FLUX.1 kind: sampling, editing, training (needs `generation`)."""
