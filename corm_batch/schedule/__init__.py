"""Jobs at their times: a registry of schedules, a loop that runs what is due, and the same for outside schedulers."""
