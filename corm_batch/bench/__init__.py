"""Named workloads, measured: what engines do with a device, and how far that is from what the device could do."""
