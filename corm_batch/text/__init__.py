"""Text to tokens and back, and texts cut to what fits."""
