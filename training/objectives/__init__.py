"""What a training step minimizes: flow matching and two kinds of distillation."""
