"""What a job has written and writes: rows, parts, who may write them, and what they say is done."""
