"""The Ray cluster: joining one, and jobs on one."""
