"""Panoramas from text by diffusion transformers of the FLUX.1 kind (needs the extra `generation`)."""
