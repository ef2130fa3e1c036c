"""Propagations: which tokens of a prompt go on to a model's later layers; one file for each."""
