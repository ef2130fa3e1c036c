"""corm-batch: ask a language model about every document of an archive, with CORM-compressed key-value caches."""
