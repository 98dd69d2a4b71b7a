"""Options that several commands share: their arguments, and the dataclasses they fill."""
