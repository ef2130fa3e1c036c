"""What verified documents say: of one answer, of all of a job, and whether a job should go on. README.md here tells."""
