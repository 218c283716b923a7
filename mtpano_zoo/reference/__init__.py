"""Published checkpoint formats, one per file: their names and sizes to ours."""
