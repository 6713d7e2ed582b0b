"""The worker: guard and supervisor. Never imports user code."""
