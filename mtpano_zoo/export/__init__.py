"""What a panorama's maps become in three dimensions: meshes, and scenes for other programs."""
