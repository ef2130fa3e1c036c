"""Attention and cache operations on plain tensors."""
