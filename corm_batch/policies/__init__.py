"""Which cached entries survive; one published method a file."""
