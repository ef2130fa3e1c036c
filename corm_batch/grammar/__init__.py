"""Answers that fit a form: what it is, which tokens it allows next, and where an answer stands in it."""
