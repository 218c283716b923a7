"""Evaluation of panoramic predictions: protocols, seams, poles, camera rotations and other measures; a report."""
