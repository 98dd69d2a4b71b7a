"""Commands with --shard: one process's part of the work, and its report."""
