"""Settings and places: read once at the edge of a process and passed down."""
