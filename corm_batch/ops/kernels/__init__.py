"""Triton kernels: each has the signature of its plain-torch definition in the folder above, and no other meaning."""
