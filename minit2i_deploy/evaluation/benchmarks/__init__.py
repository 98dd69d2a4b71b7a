"""Images of published benchmarks in the folders that their scorers read, and those scores."""
