"""The only rooms, with training and diagnosis, that know torch: loading, rendering, the loss engine, generation."""
