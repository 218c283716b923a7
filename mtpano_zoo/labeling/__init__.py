"""Label-free training: perspective teachers label views of a panorama, and the views are fused on the sphere."""
