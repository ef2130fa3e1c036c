"""What was written, as figures and as a page."""
