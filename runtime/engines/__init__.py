"""One file an engine: numpy arrays in, numpy arrays out; says truthfully where it runs."""
