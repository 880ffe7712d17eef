"""The library exports what llamapen.h declares, and nothing else: symbols of llama.cpp or Rust would meet the host's.

Environment: LLAMAPEN_LIBRARY, the shared library.
"""

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def exported(library):
    command = ["nm", "-g", library] if sys.platform == "darwin" else ["nm", "-D", "--defined-only", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Value, kind, name; a version may follow the name.
    return {line.split()[2].split("@")[0] for line in listing.splitlines() if len(line.split()) == 3}


def declared():
    header = (ROOT / "include" / "llamapen.h").read_text()
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    return set(re.findall(r"\b(llamapen_\w+)\s*\(", code))


class Exports(unittest.TestCase):
    def setUp(self):
        self.exported = exported(os.environ["LLAMAPEN_LIBRARY"])

    def test_only_our_names(self):
        self.assertEqual([name for name in sorted(self.exported) if not name.startswith("llamapen_")], [])

    def test_exactly_what_the_header_declares(self):
        self.assertGreater(len(self.exported), 20)
        self.assertEqual(self.exported, declared())

    def test_python_uses_only_what_is_declared(self):
        source = (ROOT / "python" / "llamapen" / "_library.py").read_text()
        used = set(re.findall(r'"(llamapen_\w+)":', source))
        self.assertGreater(len(used), 15)
        self.assertEqual(used - declared(), set())


if __name__ == "__main__":
    unittest.main()
