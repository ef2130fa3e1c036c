"""Kinds of files that are a document each, one a file."""
