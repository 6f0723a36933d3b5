"""Looking over a data set before anything trains: every file opened, every fault listed, nothing deleted."""
