"""One suite a file; every module here is imported when a suite is looked up by name."""
