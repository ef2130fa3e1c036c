"""Triton kernels: each has the signature of its plain-torch definition in the folder above, and no other meaning.

A comment at a load gives the shape of the tile: BN, BR, BG, BS stand for BLOCK_N and so on, D for its padded width.
"""
