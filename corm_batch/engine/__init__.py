"""One model replica: schedule, run, evict."""
