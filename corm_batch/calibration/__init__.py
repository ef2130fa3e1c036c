"""What a job's cache may let go of: policies tried on its own documents until one loses no more than it may."""
