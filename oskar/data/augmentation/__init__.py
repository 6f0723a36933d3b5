"""Changes of a clip's pixels to train on; every draw is a function of (seed, step, clip id), the same in all frames."""
