"""Networks that label perspective images, and an oracle that knows the truth."""
