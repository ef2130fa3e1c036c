"""Kinds of files that rows are written to, one a file."""
