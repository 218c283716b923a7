"""The judge: protocols, seams, poles, turns of the camera and other measures of panoramic predictions; a report."""
