"""What to ask of a document; one kind of job a file."""
