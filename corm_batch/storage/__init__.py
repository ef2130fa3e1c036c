"""In what form kept entries lie in their pages."""
