"""Turn a panorama's maps into three dimensions: meshes, and scenes for other programs."""
