"""Checks of a script that goes on after one that fails."""


class Checks:
    """Call it with whether something is good, and what; `end` says how many were."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, good, what):
        print(f"{'ok' if good else 'not ok'} - {what}", flush=True)
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        return good

    def end(self):
        """The exit status."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
