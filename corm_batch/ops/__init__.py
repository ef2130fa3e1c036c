"""Attention and cache operations on plain tensors: no classes with behaviour, no state, no model, no policy.

Shape letters, used in every tensor name and docstring of the package:
    T packed query tokens   S sequences     L layers      H query heads   K kv heads   G = H / K, the group of a kv head
    N entries of one head   R query rows    P pages       C page slots (= page_size)   D head dim   V vocabulary
Query head h reads kv head h // G. Steps and positions are 1-based inside their own document.
"""
