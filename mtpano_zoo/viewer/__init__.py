"""A page to look around in a panorama and its maps, to walk through the scene, and to measure."""
