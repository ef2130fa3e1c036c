from dataclasses import replace

import pytest

from corm_batch.engine.figures import MemoryStats


def test_total_sums_and_weighs_and_takes_the_bytes_of_the_largest_piece():
    one = MemoryStats(prompt_tokens=10, kv_bytes_full=100, kv_bytes_peak=80, kept_ratio=0.5, kept_per_layer=(4, 6),
                      evicted_entries=10, evicted_attention_mass=0.1, decode_s=1.0, queue_s=5.0)  # fmt: skip
    two = MemoryStats(prompt_tokens=30, kv_bytes_full=300, kv_bytes_peak=90, kept_ratio=0.25, kept_per_layer=(5, 7),
                      evicted_entries=30, evicted_attention_mass=0.3, decode_s=2.0, preemptions=1,
                      queue_s=4.0)  # fmt: skip
    both = MemoryStats.total([one, two])
    assert (both.prompt_tokens, both.kv_bytes_full, both.kv_bytes_peak, both.preemptions) == (40, 300, 90, 1)
    assert both.kept_ratio == pytest.approx((50 + 75) / 400)
    assert both.evicted_attention_mass == pytest.approx((0.1 * 10 + 0.3 * 30) / 40)
    assert both.kept_per_layer == (9, 13)
    assert (both.decode_s, both.queue_s) == (3.0, 5.0)  # prompts wait beside each other
    assert MemoryStats.total([]) == MemoryStats()
    assert MemoryStats.total([one, replace(two, read_apart="why")]).read_apart == "why"
    beside = MemoryStats.beside([one, two])  # what is asked over a reading is held at the same time
    assert (beside.kv_bytes_full, beside.kv_bytes_peak, beside.kept_ratio) == (400, 170, both.kept_ratio)
    assert MemoryStats.beside([MemoryStats(), one, two]).kept_per_layer == (9, 13)  # a reading that nobody needed
    assert MemoryStats.total([one, replace(two, evicted_attention_mass=None)]).evicted_attention_mass is None
