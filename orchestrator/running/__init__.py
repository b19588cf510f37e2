"""What runs need of a Ray cluster: room, groups of changing size, network interfaces, notices, no leftovers."""
