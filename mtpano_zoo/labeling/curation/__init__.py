"""Three stages of curation, as in Depth Any Panoramas (arXiv 2512.16913): label, score, select."""
